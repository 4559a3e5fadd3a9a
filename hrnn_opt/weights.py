"""Weights files: the meta-parameters with their config and the settings that they want.

A weights file is safetensors: plain arrays behind a JSON header, so that loading one can execute
nothing. The header's metadata holds the config and the settings of `Pretrained`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import json
import numbers
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.files import write_atomic
from hrnn_opt.network import HierarchicalRNN
from hrnn_opt.schedules import InverseSquareRootDecay

FORMAT = "hrnn_opt.1"
UNTRAINED = "untrained"
# Of 0.001, 0.003, 0.01, 0.03 and 0.1 the best on a convnet for 8 x 8 digits, for 15 epochs.
UNTRAINED_INITIAL_LEARNING_RATE = 3e-3
PRETRAINED_DIR = Path(__file__).parent / "pretrained"
# The largest config has some 20 M numbers; ours have 8,400. A file beyond this is not weights.
LARGEST_FILE = 128 * 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """Meta-parameters and the settings that they were meta-trained with.

    Attributes:
        config: the switches of the network.
        arrays: meta-parameters by name, float32; None for a network that is still to be given its
            numbers.
        initial_learning_rate: what `HierarchicalLOpt` uses where the caller gives none.
        learning_rate: likewise; with `decay_steps`, the first rate of an
            `InverseSquareRootDecay`.
        decay_steps: of that schedule; 0 for a constant rate.
        name: by which a saved optimizer may refer to them; None for those that it must carry.

    Raises:
        ValueError: if the arrays are not those of the config, not finite, or a setting is not
            allowed.
    """

    config: HierarchicalRNNConfig
    arrays: dict[str, np.ndarray] | None
    initial_learning_rate: float | tuple[float, float] = 1e-3
    learning_rate: float = 1.0
    decay_steps: float = 0.0
    name: str | None = None

    def __post_init__(self) -> None:
        check_initial_learning_rate(self.initial_learning_rate)
        check_rate("learning_rate", self.learning_rate)
        check_rate("decay_steps", self.decay_steps)
        if self.arrays is not None:
            _check_arrays(self.arrays, self.config)

    def schedule(self) -> float | InverseSquareRootDecay:
        """The learning rate that the weights want, as an optimizer takes it."""
        if self.decay_steps:
            return InverseSquareRootDecay(self.learning_rate, self.decay_steps)
        return self.learning_rate

    @classmethod
    def from_network(cls, network: HierarchicalRNN, **settings: Any) -> Pretrained:
        """The numbers that a network holds now."""
        arrays = {
            name: np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable)), "float32")
            for name, variable in network.meta_parameters.items()
        }
        return cls(network.config, arrays, **settings)

    def network(self) -> HierarchicalRNN:
        """A new network that holds these meta-parameters."""
        network = HierarchicalRNN(self.config)
        if self.arrays is not None:
            for name, variable in network.meta_parameters.items():
                variable.assign(self.arrays[name])
        return network

    def without_lookahead(self) -> Pretrained:
        """The same optimizer with the gradient taken at the parameters."""
        if not self.config.lookahead:
            return self
        arrays = self.arrays and {
            name: array for name, array in self.arrays.items() if not name.startswith("attention_")
        }
        return dataclasses.replace(
            self, config=dataclasses.replace(self.config, lookahead=False), arrays=arrays)

    def settings(self) -> dict[str, Any]:
        """The settings by name, as JSON holds them."""
        rate = self.initial_learning_rate
        return {
            "initial_learning_rate": list(rate) if isinstance(rate, tuple) else rate,
            "learning_rate": self.learning_rate,
            "decay_steps": self.decay_steps,
        }

    def to_bytes(self) -> bytes:
        """The content of a weights file."""
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config.to_dict()),
            "settings": json.dumps(self.settings()),
        }
        # Not `ascontiguousarray`, which gives a scalar an axis.
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        content = safetensors.numpy.save(arrays, metadata=metadata)
        # Its header is in an order drawn anew each time; the same weights shall be the same bytes.
        header, data = _split(content)
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
            metadata = _split(content)[0].get("__metadata__") or {}
        except (
            safetensors.SafetensorError, ValueError, KeyError, struct.error, TypeError,
        ) as error:
            raise ValueError(
                f"`weights` from {source} are not a safetensors file: {error}") from None
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"`weights` from {source} must have the format {FORMAT!r}, got "
                f"{metadata.get('format')!r}.")
        try:
            config = HierarchicalRNNConfig.from_dict(json.loads(metadata["config"]))
            settings = _parse_settings(json.loads(metadata["settings"]))
            return cls(config, arrays, **settings)
        except KeyError as error:
            raise ValueError(f"`weights` from {source} lack the metadata {error}.") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"`weights` from {source} are not usable: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weights file, never by halves."""
        write_atomic(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pretrained:
        """Read and check a weights file.

        Raises:
            ValueError: as `from_bytes`; also if there is no such file, or it is too large.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"`weights` must be a file, got {str(path)!r}, which is none.")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(
                f"`weights` must be a file of at most {LARGEST_FILE} bytes, got "
                f"{path.stat().st_size} in {path.name!r}.")
        return cls.from_bytes(path.read_bytes(), path.name)


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def shipped() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in PRETRAINED_DIR.glob("*.safetensors"))


def resolve(weights: Any, lookahead: bool | None = None, seed: int = 0) -> Pretrained:
    """What a caller of `HierarchicalLOpt` means by `weights`.

    Args:
        weights: a shipped name, a path, `"untrained"`, a network, or what `to_config` gave.
        lookahead: False turns it off; True asks for it; None takes it as it is.
        seed: of the numbers of `"untrained"` ones.

    Raises:
        ValueError: if `weights` is none of these, the file is not good, or there is no lookahead
            to be had.
    """
    if lookahead is not None and not isinstance(lookahead, bool):
        raise ValueError(f"`lookahead` must be True, False or None, got {lookahead!r}.")
    pretrained = _find(weights, bool(lookahead), seed)
    if lookahead is False:
        return pretrained.without_lookahead()
    if lookahead and not pretrained.config.lookahead:
        raise ValueError(
            "`lookahead` must be None or False for weights that were meta-trained without it, got "
            "True.")
    return pretrained


def _find(weights: Any, lookahead: bool, seed: int) -> Pretrained:
    if isinstance(weights, Pretrained):
        return weights
    if isinstance(weights, HierarchicalRNN):
        return Pretrained.from_network(weights)
    if isinstance(weights, dict):
        return from_config(weights, seed)
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be a shipped name, a path, 'untrained' or a HierarchicalRNN, got "
            f"{type(weights).__name__}.")
    if weights == UNTRAINED:
        return untrained(HierarchicalRNNConfig(lookahead=lookahead), seed)
    if weights in shipped():
        return dataclasses.replace(
            Pretrained.load(PRETRAINED_DIR / f"{weights}.safetensors"), name=weights)
    if os.path.isfile(weights):
        return Pretrained.load(weights)
    raise ValueError(
        f"`weights` must be one of {[*shipped(), UNTRAINED]}, the path of a weights file or a "
        f"HierarchicalRNN, got {str(weights)!r}.")


def untrained(config: HierarchicalRNNConfig, seed: int = 0) -> Pretrained:
    """The start values of meta-training, with the initial learning rate that suits them."""
    return Pretrained.from_network(
        HierarchicalRNN(config, seed=seed), name=UNTRAINED,
        initial_learning_rate=UNTRAINED_INITIAL_LEARNING_RATE)


def to_config(pretrained: Pretrained) -> dict[str, Any]:
    """What an optimizer's config says of its weights, enough to rebuild it with no file at hand.

    Weights with a name go by it; others travel whole.
    """
    if pretrained.name is None:
        return {"safetensors": base64.b64encode(pretrained.to_bytes()).decode("ascii")}
    return {
        "name": pretrained.name, "config": pretrained.config.to_dict(), **pretrained.settings()}


def from_config(description: dict[str, Any], seed: int = 0) -> Pretrained:
    """What `to_config` described.

    The weights of that name may have another config by now, or be gone; then the numbers must come
    from the saved variables, and the arrays are None.

    Raises:
        ValueError: if it is no such description.
    """
    if "safetensors" in description:
        try:
            content = base64.b64decode(description["safetensors"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("`weights` in the optimizer's config are damaged.") from None
        return Pretrained.from_bytes(content, "the optimizer's config")
    settings = dict(description)
    try:
        name, config = settings.pop("name"), HierarchicalRNNConfig.from_dict(settings.pop("config"))
    except KeyError as error:
        raise ValueError(f"`weights` in the optimizer's config lack {error}.") from None
    settings = _parse_settings(settings)
    if name == UNTRAINED:
        found = untrained(config, seed)
    elif name in shipped():
        found = resolve(name, lookahead=None if config.lookahead else False)
    else:
        found = None
    if found is None or found.config != config:
        return Pretrained(config, None, name=name, **settings)
    return dataclasses.replace(found, **settings)


def _parse_settings(settings: Any) -> dict[str, Any]:
    names = {"initial_learning_rate", "learning_rate", "decay_steps"}
    if not isinstance(settings, dict) or set(settings) != names:
        raise ValueError(f"the settings must be {sorted(names)}, got {settings!r:.100}.")
    return {
        "initial_learning_rate": check_initial_learning_rate(settings["initial_learning_rate"]),
        "learning_rate": check_rate("learning_rate", settings["learning_rate"]),
        "decay_steps": check_rate("decay_steps", settings["decay_steps"]),
    }


def check_rate(name: str, rate: Any) -> float:
    """A number, at least 0 and finite, or a ValueError that names it."""
    if not _is_number(rate) or not 0 <= rate < np.inf:
        raise ValueError(f"`{name}` must be a number of at least 0, got {rate!r}.")
    return float(rate)


def check_initial_learning_rate(rate: Any) -> float | tuple[float, float]:
    """A positive number, or a range (low, high) of them."""

    def positive(x: Any) -> bool:
        return _is_number(x) and 0 < x < np.inf

    if positive(rate):
        return float(rate)
    if isinstance(rate, (tuple, list)) and len(rate) == 2 and all(map(positive, rate)):
        low, high = map(float, rate)
        if low <= high:
            return low, high
    raise ValueError(
        "`initial_learning_rate` must be a positive number or a (low, high) range of them with "
        f"low <= high, got {rate!r}.")


def _is_number(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool)


@functools.cache
def _shapes(config: HierarchicalRNNConfig) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(variable.shape)
        for name, variable in HierarchicalRNN(config).meta_parameters.items()
    }


def _check_arrays(arrays: dict[str, np.ndarray], config: HierarchicalRNNConfig) -> None:
    expected = _shapes(config)
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
