"""Compiled functions that need not be traced again in the next process.

JAX's compilation cache spares a process the compiling of a program, but to look there it has to
trace and lower it, which takes longer than the rest of a warm start. So what it is lowered to is
kept too, in a folder of that cache.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import keras
from jax import export

import hrnn_opt
import problems
from hrnn_opt.files.atomic import write_atomic
from problems.problem import Spec

_FOLDER = "lowered"
# Bytes of the digest that stands before what is kept.
_DIGEST = hashlib.sha256().digest_size


class Program:
    """`jax.jit` of a function that is called with arguments of the same shapes ever, and kept.

    Args:
        function: what is compiled.
        key: says, together with this project's sources, the function's name and the shapes of its
            arguments, all that its program depends on; None: that cannot be said, and it is not
            kept.
        options: of `jax.jit`.
    """

    def __init__(
        self, function: Callable[..., Any], key: str | None, **options: Any
    ) -> None:
        self._function = function
        self._key = key
        self._options = options
        self._jitted: Any = None

    def __call__(self, *arguments: Any) -> Any:
        program = self._program(arguments)
        if jax.default_backend() == "cpu":
            # A program that is handed over before what it works on is there runs slower, by up to
            # two thirds (lab/performance.md).
            jax.block_until_ready(arguments)
        return program(*arguments)

    def compile(self, *arguments: Any) -> None:
        """Compile without running.

        Args:
            arguments: or their shapes and types.
        """
        self._program(arguments).lower(*arguments).compile()

    def shapes(self, *arguments: Any) -> Any:
        """Shapes and types of the results, likewise."""
        return self._program(arguments).eval_shape(*arguments)

    def unload(self) -> None:
        """Let go of what is compiled: it is read from the cache when it is next needed."""
        if self._jitted:
            self._jitted.clear_cache()

    def _program(self, arguments: tuple[Any, ...]) -> Any:
        if self._jitted is None:
            kept = self._key and jax.config.jax_compilation_cache_dir and jax.process_count() == 1
            function = self._kept(arguments) if kept else self._function
            self._jitted = jax.jit(function, **self._options)
        return self._jitted

    def _kept(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        shapes = jax.tree.map(_shape, arguments)
        text = "\n".join([_sources(), self._key, self._function.__name__, str(shapes)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = Path(jax.config.jax_compilation_cache_dir) / _FOLDER / digest
        lowered = _read(path)
        if lowered is None:
            # The program around it gives arguments away; here JAX would only warn that it cannot.
            options = {k: v for k, v in self._options.items() if k != "donate_argnums"}
            lowered = export.export(jax.jit(self._function, **options))(*shapes)
            _write(path, lowered)

        @functools.wraps(self._function)
        def function(*arguments: Any) -> Any:
            return lowered.call(*arguments)

        return function


def _read(path: Path) -> export.Exported | None:
    """What `_write` wrote; None if there is none, or it is damaged."""
    content = path.read_bytes() if path.exists() else b""
    lowered = content[_DIGEST:]
    if hashlib.sha256(lowered).digest() != content[:_DIGEST]:
        return None
    return export.deserialize(bytearray(lowered))


def _write(path: Path, lowered: export.Exported) -> None:
    content = bytes(lowered.serialize())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, hashlib.sha256(content).digest() + content)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


@functools.cache
def _sources() -> str:
    """A digest of what a trace depends on beside its key: this project's sources, the libraries'
    versions and the devices."""
    packages = (hrnn_opt.__file__, problems.__file__, __file__)
    digest = hashlib.sha256(f"{jax.__version__} {keras.__version__}".encode())
    digest.update(f"{jax.default_backend()} {jax.device_count()}".encode())
    for path in sorted(path for file in packages for path in Path(file).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def ours(value: Any) -> bool:
    """Whether a value's class is among the sources that are digested."""
    return type(value).__module__.split(".")[0] in ("hrnn_opt", "problems", "train")


def described(value: Any) -> bool:
    """Whether an argument of a spec is known from its repr: not what others wrote, whose source may
    change, nor what reads files."""
    if isinstance(value, (tuple, list)):
        return all(map(described, value))
    if isinstance(value, Spec):
        places = [f for f in dataclasses.fields(value) if f.metadata.get("kind") == "place"]
        return ours(value) and not places and all(
            described(argument) for _, argument, _ in value.arguments())
    return value is None or isinstance(value, (bool, int, float, str))


def serializable(kind: type) -> type:
    """Make a NamedTuple known to what is kept of programs whose arguments it is in."""
    return export.register_namedtuple_serialization(
        kind, serialized_name=f"{kind.__module__}.{kind.__name__}")
