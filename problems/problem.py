"""What a problem is: an instance, a start, an objective, and the gradient that is handed out.

A problem is a *spec*, a frozen dataclass that holds no arrays. Its fields are of two kinds:
structural ones (sizes, names) decide shapes and operations, numeric ones (`number()`) are data.
`Spec.program` collects the structural ones, so specs with an equal program run through one
compiled program, their numbers being leaves of the instance.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Parameters = tuple[Array, ...]
Instance = dict[str, Any]
Batch = dict[str, Any]


def number(default: Any = dataclasses.MISSING, **kwargs) -> Any:
    """A numeric field: a float that reaches the computation as an array in the instance."""
    return dataclasses.field(default=default, metadata={"kind": "number"}, **kwargs)


def place(default: str = "") -> Any:
    """A field that says where data lie. It changes neither shapes nor operations."""
    return dataclasses.field(default=default, metadata={"kind": "place"}, kw_only=True)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True, repr=False)
class Spec:
    """A frozen, hashable description that prints as the call that makes it."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("kind") == "number":
                self.require(
                    isinstance(value, int | float)
                    and not isinstance(value, bool)
                    and math.isfinite(value),
                    field.name,
                    "a finite number",
                )
                object.__setattr__(self, field.name, float(value))
            elif isinstance(value, list | tuple):
                object.__setattr__(self, field.name, _as_tuple(value))
        self.check()

    def check(self) -> None:
        """Raises ValueError for arguments that make no sense. Subclasses extend it."""

    def require(self, condition: bool, name: str, allowed: str) -> None:
        """Raises ValueError, naming the argument, what came and what is allowed."""
        if not condition:
            raise ValueError(
                f"{type(self).__name__}: {name} must be {allowed}; got {getattr(self, name)!r}."
            )

    def require_count(self, name: str, least: int = 1) -> None:
        value = getattr(self, name)
        self.require(is_whole(value) and value >= least, name, f"an integer of at least {least}")

    def arguments(self) -> Iterator[tuple[str, Any, bool]]:
        """(name, value, by position?) of every field that is not at its default."""
        for field in sorted(dataclasses.fields(self), key=lambda f: f.kw_only):
            value = getattr(self, field.name)
            required = field.default is dataclasses.MISSING
            if required or value != field.default:
                yield field.name, value, required and not field.kw_only

    def __repr__(self) -> str:
        items = (
            repr(value) if positional else f"{name}={value!r}"
            for name, value, positional in self.arguments()
        )
        return f"{type(self).__name__}({', '.join(items)})"

    @functools.cached_property
    def program(self) -> Hashable:
        """The structural identity: equal programs mean equal computations and shapes."""
        fields = (
            (f.name, _program_of(getattr(self, f.name)))
            for f in dataclasses.fields(self)
            if "kind" not in f.metadata
        )
        return (type(self).__name__, *fields)

    @property
    def numbers(self) -> dict[str, Any]:
        """The numeric fields, float32 scalars, with those of nested specs under their field."""
        values = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("kind") == "number":
                values[field.name] = jnp.float32(value)
            elif isinstance(value, Spec):
                values[field.name] = value.numbers
            elif isinstance(value, tuple) and value and isinstance(value[0], Spec):
                values[field.name] = tuple(item.numbers for item in value)
        return values


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def _program_of(value: Any) -> Hashable:
    if isinstance(value, Spec):
        return value.program
    if isinstance(value, tuple):
        return tuple(_program_of(item) for item in value)
    return value


@dataclasses.dataclass(frozen=True, repr=False)
class Problem(Spec, abc.ABC):
    """The interface that meta-training sees. Everything is pure JAX and may be vmapped.

    The meta-objective takes `objective` (all data, no noise); the optimizer is handed `gradient`.
    """

    @abc.abstractmethod
    def sample_instance(self, key: Array, numbers: dict[str, Any] | None = None) -> Instance:
        """Draws everything random about the problem, and joins the numeric fields to it.

        Args:
          key: the random key of this instance.
          numbers: numeric fields to use instead of this spec's own: the `numbers` of any spec
            with the same `program`, so that one compiled sampler serves them all.
        """

    @abc.abstractmethod
    def initial_parameters(self, key: Array, instance: Instance) -> Parameters:
        """Draws the start of a run: a tuple of float32 tensors."""

    @abc.abstractmethod
    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        """The objective on all data and without noise, a float32 scalar, at least 0."""

    @abc.abstractmethod
    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        """Everything random in the gradients of steps start .. start + num_steps - 1.

        A function of (key, step) only: a run cut into pieces anywhere sees the same sequence.

        Args:
          key: the random key of this run.
          start: the first step; may be traced.
          num_steps: how many steps; static.

        Returns:
          A pytree whose leaves have a leading axis of num_steps.
        """

    @abc.abstractmethod
    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        """The objective on one step's minibatch: the noise-free function behind `gradient`."""

    @abc.abstractmethod
    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        """The gradient as the optimizer sees it, differentiable with respect to parameters.

        Args:
          batch: one step's slice of `batches`.
        """

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the parameters."""
        return _shapes(self)


@functools.cache
def _shapes(problem: Problem) -> tuple[tuple[int, ...], ...]:
    def start(key):
        return problem.initial_parameters(key, problem.sample_instance(key))

    return tuple(tensor.shape for tensor in jax.eval_shape(start, jax.random.key(0)))


@dataclasses.dataclass(frozen=True, repr=False)
class BasicProblem(Problem):
    """A problem of its own, not a transform of another: adds gradient noise.

    gradient = d objective + noise_stdev * N(0, 1) (released program, `Problem.gradients`).
    Subclasses implement `draw`, `initial_parameters` and `objective`.

    Args:
      noise_stdev: standard deviation of the noise on every gradient entry, at least 0.
    """

    noise_stdev: float = number(0.0, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(self.noise_stdev >= 0, "noise_stdev", "at least 0")

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        """Draws the random arrays of an instance. By default there are none."""
        return {}

    def sample_instance(self, key: Array, numbers: dict[str, Any] | None = None) -> Instance:
        numbers = self.numbers if numbers is None else numbers
        own = {name: value for name, value in numbers.items() if not isinstance(value, dict)}
        return own | self.draw(key, numbers)

    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        steps = start + jnp.arange(num_steps)
        return {"noise": jax.vmap(lambda step: jax.random.fold_in(key, step))(steps)}

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        return self.objective(parameters, instance)

    def gradient(self, parameters: Parameters, instance: Instance, batch: Batch) -> Parameters:
        clean = jax.grad(self.minibatch_objective)(parameters, instance, batch)
        if "noise_stdev" not in instance:
            return clean
        noise = normal_like(batch["noise"], clean)
        return tuple(g + instance["noise_stdev"] * e for g, e in zip(clean, noise, strict=True))


def shared_numbers(specs: Sequence[Spec]) -> dict[str, Any]:
    """The `numbers` of specs of one program, each number as a vector of theirs. The noise of
    gradients is left out where none of them has any: it costs more than a small gradient."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(spec.numbers for spec in specs))

    def without_noise(numbers: Any) -> Any:
        if isinstance(numbers, tuple):
            return tuple(map(without_noise, numbers))
        if not isinstance(numbers, dict):
            return jnp.asarray(numbers)
        return {name: without_noise(value) for name, value in numbers.items()
                if name != "noise_stdev" or np.any(value)}

    return without_noise(stacked)


def normal_like(key: Array, tensors: Sequence[Array | jax.ShapeDtypeStruct]) -> Parameters:
    """Standard normal tensors of the given shapes.

    Cut from one draw: a generator for each tensor would be most of a small program's compilation.
    """
    return split_like(jax.random.normal(key, (sum(t.size for t in tensors),)), tensors)


def split_like(
    vector: Array, tensors: Sequence[Array | jax.ShapeDtypeStruct]
) -> Parameters:
    """Cuts a vector into tensors of the given shapes."""
    pieces, at = [], 0
    for tensor in tensors:
        pieces.append(vector[at : at + tensor.size].reshape(tensor.shape))
        at += tensor.size
    return tuple(pieces)
