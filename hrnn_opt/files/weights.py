"""Weights files: the meta-parameters with their config and the settings that they want.

A weights file is safetensors: plain arrays behind a JSON header, so that loading one can execute
nothing. The header's metadata holds the config and the settings of `Pretrained`. A weights folder,
which a repository on the Hub is too, holds such a file, the same config and settings as JSON for
all to read, and a card.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import numbers
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

from hrnn_opt.checks import is_number
from hrnn_opt.files import format_1, hub
from hrnn_opt.files.atomic import write_atomic
from hrnn_opt.files.card import model_card
from hrnn_opt.interface import LearnedOptimizer, NetworkConfig
from hrnn_opt.iterates import Iterates
from hrnn_opt.registry import config_from_dict, network_of

FORMAT = "hrnn_opt.2"
# The largest config has some 20 M numbers; ours have up to 8,349. A file beyond this is none.
LARGEST_FILE = 128 * 2**20
# The files of a weights folder. A config has some 700 bytes.
FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
LARGEST_CONFIG = 2**16


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """Meta-parameters and the settings that they were meta-trained with.

    Attributes:
        config: of the network and of the rules around it.
        arrays: meta-parameters by name, float32; None for a network that is still to be given its
            numbers.
        initial_learning_rate: what `HierarchicalLOpt` uses where the caller gives none.
        learning_rate: likewise.
        name: by which a saved optimizer may refer to them; None for those that it must carry.

    Raises:
        ValueError: if the arrays are not those of the config, not finite, or a setting is not
            allowed.
    """

    config: NetworkConfig
    arrays: dict[str, np.ndarray] | None
    initial_learning_rate: float | tuple[float, float] = 1e-3
    learning_rate: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        check_initial_learning_rate(self.initial_learning_rate)
        check_rate("learning_rate", self.learning_rate)
        if self.arrays is not None:
            _check_arrays(self.arrays, self.config)

    @classmethod
    def from_network(cls, network: LearnedOptimizer, **settings: Any) -> Pretrained:
        """The numbers that a network holds now.

        Args:
            network: the network, with the rules around it.
            settings: those that shall not have their defaults. That of the learning rate is the
                network's.
        """
        settings = {"learning_rate": network.learning_rate, **settings}
        arrays = {
            name: np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable)), "float32")
            for name, variable in network.meta_parameters.items()
        }
        return cls(network.network_config, arrays, **settings)

    def network(self) -> LearnedOptimizer:
        """A new network that holds these meta-parameters, inside its rules."""
        network = network_of(self.config)
        if self.arrays is not None:
            for name, variable in network.meta_parameters.items():
                variable.assign(self.arrays[name])
        return network

    @property
    def takes_log_rates(self) -> bool:
        """Whether the network starts from a log learning rate for each parameter."""
        return pattern(self.config).takes_log_rates

    @property
    def needs(self) -> frozenset[str]:
        """What the network reads of `Seen` beside the gradient."""
        return pattern(self.config).needs

    @property
    def iterates(self) -> Iterates:
        """What is done with the network's steps."""
        return pattern(self.config).iterates

    @property
    def has_lookahead(self) -> bool:
        """Whether the network looks ahead for the location of the next gradient."""
        return getattr(self.config.core, "lookahead", False)

    def without_lookahead(self) -> Pretrained:
        """The same optimizer with the gradient taken at the parameters."""
        if not self.has_lookahead:
            return self
        arrays = self.arrays and {
            name: array for name, array in self.arrays.items() if not name.startswith("attention_")
        }
        core: Any = self.config.core
        config = dataclasses.replace(
            self.config, core=dataclasses.replace(core, lookahead=False))
        return dataclasses.replace(self, config=config, arrays=arrays)

    def settings(self) -> dict[str, Any]:
        """The settings by name, as JSON holds them."""
        rate = self.initial_learning_rate
        return {
            "initial_learning_rate": list(rate) if isinstance(rate, tuple) else rate,
            "learning_rate": self.learning_rate,
        }

    @property
    def _numbers(self) -> dict[str, np.ndarray]:
        if self.arrays is None:
            raise ValueError("`arrays` must be there where weights are written, got None.")
        return self.arrays

    def to_bytes(self) -> bytes:
        """The content of a weights file."""
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config.to_dict()),
            "settings": json.dumps(self.settings()),
        }
        # Not `ascontiguousarray`, which gives a scalar an axis.
        arrays = {name: np.asarray(array, order="C") for name, array in self._numbers.items()}
        content = safetensors.numpy.save(arrays, metadata=metadata)
        # Its header is in an order drawn anew each time; the same weights shall be the same bytes.
        header, data = split(content)
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> Pretrained:
        """Checked content of a weights file.

        Args:
            content: the bytes.
            source: what to call them in an error.

        Raises:
            ValueError: if they are not the weights of any network of ours: another format, a
                config that does not exist, missing or further arrays, other shapes or dtypes, or
                numbers that are not finite.
        """
        try:
            arrays = safetensors.numpy.load(content)
            metadata = split(content)[0].get("__metadata__") or {}
        except (
            safetensors.SafetensorError, ValueError, KeyError, struct.error, TypeError,
        ) as error:
            raise ValueError(
                f"`weights` from {source} are not a safetensors file: {error}") from None
        with usable(source):
            config, settings = _parse_description(
                {**metadata, **{
                    name: json.loads(metadata[name]) for name in ("config", "settings")
                    if name in metadata}})
            return cls(config, arrays, **settings)

    def to_files(self, card: str = "") -> dict[str, bytes]:
        """The contents of a weights folder by name.

        Args:
            card: what its reader shall know, in Markdown: what they were trained on, and measured.
        """
        content = self.to_bytes()
        description = {
            "format": FORMAT, "config": self.config.to_dict(), "settings": self.settings()}
        return {
            FILE: content,
            CONFIG_FILE: (json.dumps(description, indent=2) + "\n").encode(),
            CARD_FILE: model_card(
                self.config, self.settings(), sum(array.size for array in self._numbers.values()),
                hashlib.sha256(content).hexdigest(), card).encode(),
        }

    def save(self, path: str | os.PathLike[str], card: str = "") -> None:
        """Write a weights file, never by halves, or a weights folder.

        Args:
            path: of a file if it ends in `.safetensors`; else of a folder, made if need be, in
                which each file is there whole.
            card: as in `to_files`; for a folder.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            write_atomic(path, self.to_bytes())
            return
        path.mkdir(parents=True, exist_ok=True)
        for name, content in self.to_files(card).items():
            write_atomic(path / name, content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pretrained:
        """Read and check a weights file, or a weights folder.

        Raises:
            ValueError: as `from_bytes`; also if there is no such file, it is too large, or the
                config in a folder is damaged or not that of its weights.
        """
        path = Path(path)
        if not path.is_dir():
            return cls.from_bytes(read_file(path, LARGEST_FILE), path.name)
        source = f"{path.name}/{CONFIG_FILE}"
        content = read_file(path / CONFIG_FILE, LARGEST_CONFIG)
        with usable(source):
            config, settings = _parse_description(json.loads(content))
        pretrained = cls.load(path / FILE)
        if (config, settings) != (pretrained.config, parse_settings(pretrained.settings())):
            raise ValueError(f"`weights` from {source} are not those in its {FILE}.")
        return pretrained

    def push_to_hub(
        self, name: str, card: str = "", private: bool | None = None, token: str | None = None
    ) -> str:
        """Put a weights folder on the Hub; see `hub.upload`.

        Args:
            name: `user/name`, by which `HierarchicalLOpt` then takes them.
            card: as in `to_files`.
            private, token: as in `hub.upload`.

        Returns:
            The address of the commit.
        """
        return hub.upload(name, self.to_files(card), private, token)

    @classmethod
    def from_pretrained(cls, name: str) -> Pretrained:
        """Weights from the Hub, from its cache where there is no connection.

        The config is checked before the weights are downloaded, and the size of both before that.

        Args:
            name: `user/name` or `user/name@revision`.

        Raises:
            ValueError: as `load` and `hub.download`.
            ImportError: without the package `huggingface_hub`.
        """
        path = hub.download(name, CONFIG_FILE, LARGEST_CONFIG)
        with usable(f"{name} on the Hub"):
            _parse_description(json.loads(read_file(path, LARGEST_CONFIG)))
        # Of the same commit, after which the folder is named.
        commit = f"{name.partition('@')[0]}@{path.parent.name}"
        return cls.load(hub.download(commit, FILE, LARGEST_FILE).parent)


@contextlib.contextmanager
def usable(source: str) -> Iterator[None]:
    """One error for all that can be wrong with parsed weights."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`weights` from {source} are not usable: {error}") from None


def read_file(path: Path, most: int) -> bytes:
    """A file's content; nothing of it where it is larger than `most` bytes."""
    if not path.is_file():
        raise ValueError(f"`weights` must be a file, got {str(path)!r}, which is none.")
    with path.open("rb") as file:
        content = file.read(most + 1) if path.stat().st_size <= most else None
    if content is None or len(content) > most:
        raise ValueError(
            f"`weights` must be a file of at most {most} bytes, got {path.stat().st_size} in "
            f"{path.name!r}.")
    return content


def _parse_description(description: Any) -> tuple[NetworkConfig, dict[str, Any]]:
    """The config and the settings that a weights file or folder states."""
    if not isinstance(description, dict):
        raise ValueError(f"the description must be a dict, got {type(description).__name__}.")
    if description.get("format") == format_1.FORMAT:
        description = format_1.translated(description)
    if description.get("format") != FORMAT:
        raise ValueError(
            f"they must have the format {FORMAT!r} or {format_1.FORMAT!r}, got "
            f"{description.get('format')!r:.100}.")
    for name in ("config", "settings"):
        if name not in description:
            raise ValueError(f"they lack the metadata {name!r}.")
    return (config_from_dict(description["config"]),
            parse_settings(description["settings"]))


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def parse_settings(settings: Any) -> dict[str, Any]:
    names = {"initial_learning_rate", "learning_rate"}
    if not isinstance(settings, dict) or set(settings) != names:
        raise ValueError(f"the settings must be {sorted(names)}, got {settings!r:.100}.")
    return {
        "initial_learning_rate": check_initial_learning_rate(settings["initial_learning_rate"]),
        "learning_rate": check_rate("learning_rate", settings["learning_rate"]),
    }


def check_rate(name: str, rate: Any) -> float:
    """A number, at least 0 and finite, or a ValueError that names it."""
    if not is_number(rate, numbers.Real) or not 0 <= rate < np.inf:
        raise ValueError(f"`{name}` must be a number of at least 0, got {rate!r}.")
    return float(rate)


def check_initial_learning_rate(rate: Any) -> float | tuple[float, float]:
    """A positive number, or a range (low, high) of them."""

    def positive(x: Any) -> bool:
        return is_number(x, numbers.Real) and 0 < x < np.inf

    if positive(rate):
        return float(rate)
    if isinstance(rate, (tuple, list)) and len(rate) == 2 and all(map(positive, rate)):
        low, high = map(float, rate)
        if low <= high:
            return low, high
    raise ValueError(
        "`initial_learning_rate` must be a positive number or a (low, high) range of them with "
        f"low <= high, got {rate!r}.")


@functools.cache
def pattern(config: NetworkConfig) -> LearnedOptimizer:
    """A network of this config, for its form: its numbers are start values."""
    return network_of(config)


def shapes_of(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the meta-parameters, by name."""
    return {
        name: tuple(variable.shape)
        for name, variable in pattern(config).meta_parameters.items()
    }


def _check_arrays(arrays: dict[str, np.ndarray], config: NetworkConfig) -> None:
    expected = shapes_of(config)
    if set(arrays) != set(expected):
        differ = sorted(set(arrays) ^ set(expected))
        raise ValueError(
            f"`arrays` must be those of their config; {differ[:4]} are missing or unknown.")
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(
                f"`arrays`: {name!r} must be float32 of shape {shape}, got {array.dtype} of shape "
                f"{array.shape}.")
        if not np.isfinite(array).all():
            raise ValueError(f"`arrays`: {name!r} must hold finite numbers only.")
