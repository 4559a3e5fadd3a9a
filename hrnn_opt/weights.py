"""Weights files: the meta-parameters with their config and the settings that they want.

A weights file is safetensors: plain arrays behind a JSON header, so that loading one can execute
nothing. The header's metadata holds the config and the settings of `Pretrained`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from keras import ops

from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.network import HierarchicalRNN

FORMAT = "hrnn_opt.1"
PRETRAINED_DIR = Path(__file__).parent / "pretrained"
# The largest config has some 20 M numbers; ours have 8,400. A file beyond this is not weights.
LARGEST_FILE = 128 * 2**20


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Meta-parameters and the settings that they were meta-trained with.

    Attributes:
        config: the switches of the network.
        arrays: meta-parameters by name, float32; None for a network that is still to be given its
            numbers.
        initial_learning_rate: what `HierarchicalLOpt` uses where the caller gives none.
        learning_rate: likewise.
    """

    config: HierarchicalRNNConfig
    arrays: dict[str, np.ndarray] | None
    initial_learning_rate: float | tuple[float, float] = 1e-3
    learning_rate: float = 1.0

    @classmethod
    def from_network(cls, network: HierarchicalRNN, **settings: Any) -> Pretrained:
        """The numbers that a network holds now."""
        arrays = {
            name: np.array(ops.convert_to_numpy(variable.value), "float32")
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

    def to_bytes(self) -> bytes:
        """The content of a weights file."""
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config.to_dict()),
            "settings": json.dumps(_settings(self)),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        return safetensors.numpy.save(arrays, metadata=metadata)

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
            (length,) = struct.unpack("<Q", content[:8])
            metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
        except (safetensors.SafetensorError, ValueError, KeyError, struct.error, TypeError) as error:
            raise ValueError(
                f"`weights` from {source} are not a safetensors file: {error}") from None
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"`weights` from {source} must have the format {FORMAT!r}, got "
                f"{metadata.get('format')!r}.")
        try:
            config = HierarchicalRNNConfig.from_dict(json.loads(metadata["config"]))
            settings = _check_settings(json.loads(metadata["settings"]))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"`weights` from {source} have bad metadata: {error}") from None
        _check_arrays(arrays, config, source)
        return cls(config, arrays, **settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a weights file: to a temporary file first, then renamed, so never by halves."""
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

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


def shipped() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in PRETRAINED_DIR.glob("*.safetensors"))


def resolve(weights: Any, seed: int = 0) -> Pretrained:
    """What a caller means by `weights`: a shipped name, a path, `"untrained"`, or a network.

    Raises:
        ValueError: if it is none of these, or the file is not good.
    """
    if isinstance(weights, Pretrained):
        return weights
    if isinstance(weights, HierarchicalRNN):
        return Pretrained.from_network(weights)
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be a shipped name, a path, 'untrained' or a HierarchicalRNN, got "
            f"{type(weights).__name__}.")
    if weights == "untrained":
        return Pretrained.from_network(HierarchicalRNN(seed=seed))
    if weights in shipped():
        return Pretrained.load(PRETRAINED_DIR / f"{weights}.safetensors")
    if Path(weights).is_file():
        return Pretrained.load(weights)
    raise ValueError(
        f"`weights` must be one of {[*shipped(), 'untrained']}, the path of a weights file or a "
        f"HierarchicalRNN, got {str(weights)!r}.")


def to_config(pretrained: Pretrained, name: str | None) -> dict[str, Any]:
    """What an optimizer's config says of its weights, enough to rebuild it with no file at hand.

    Shipped weights go by name; others travel whole.
    """
    description = {"config": pretrained.config.to_dict(), **_settings(pretrained)}
    if name is not None:
        return {"name": name, **description}
    return {"safetensors": base64.b64encode(pretrained.to_bytes()).decode("ascii")}


def from_config(description: dict[str, Any], seed: int = 0) -> tuple[Pretrained, str | None]:
    """What `to_config` described, and its name.

    Shipped weights may have another config than when the optimizer was saved; then the numbers
    must come from the saved variables, and the arrays are None.
    """
    if "safetensors" in description:
        try:
            content = base64.b64decode(description["safetensors"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("`weights` in the optimizer's config are damaged.") from None
        return Pretrained.from_bytes(content, "the optimizer's config"), None
    name = description["name"]
    config = HierarchicalRNNConfig.from_dict(description["config"])
    settings = _check_settings(
        {key: value for key, value in description.items() if key not in ("name", "config")})
    if name == "untrained":
        return dataclasses.replace(
            Pretrained.from_network(HierarchicalRNN(config, seed=seed)), **settings), name
    if name in shipped():
        current = resolve(name)
        if not config.lookahead:
            current = current.without_lookahead()
        if current.config == config:
            return dataclasses.replace(current, **settings), name
    return Pretrained(config, None, **settings), name


def _settings(pretrained: Pretrained) -> dict[str, Any]:
    return {
        "initial_learning_rate": pretrained.initial_learning_rate,
        "learning_rate": pretrained.learning_rate,
    }


def _check_settings(settings: Any) -> dict[str, Any]:
    names = {"initial_learning_rate", "learning_rate"}
    if not isinstance(settings, dict) or set(settings) != names:
        raise ValueError(f"the settings must be {sorted(names)}.")
    return {
        "initial_learning_rate": check_initial_learning_rate(settings["initial_learning_rate"]),
        "learning_rate": check_learning_rate(settings["learning_rate"]),
    }


def check_learning_rate(rate: Any) -> float:
    """A multiplier of the step: a number, at least 0 and finite."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < np.inf:
        raise ValueError(f"`learning_rate` must be a number of at least 0, got {rate!r}.")
    return float(rate)


def check_initial_learning_rate(rate: Any) -> float | tuple[float, float]:
    """A positive number, or a range (low, high) of them."""

    def positive(x: Any) -> bool:
        return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 < x < np.inf

    if positive(rate):
        return float(rate)
    if isinstance(rate, (tuple, list)) and len(rate) == 2 and all(map(positive, rate)):
        low, high = map(float, rate)
        if low <= high:
            return low, high
    raise ValueError(
        "`initial_learning_rate` must be a positive number or a (low, high) range of them with "
        f"low <= high, got {rate!r}.")


def _check_arrays(arrays: dict[str, np.ndarray], config: HierarchicalRNNConfig, source: str) -> None:
    expected = {
        name: tuple(variable.shape)
        for name, variable in HierarchicalRNN(config).meta_parameters.items()
    }
    if set(arrays) != set(expected):
        differ = sorted(set(arrays) ^ set(expected))
        raise ValueError(
            f"`weights` from {source} do not fit their config: {differ[:4]} are missing or unknown.")
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(
                f"`weights` from {source}: {name!r} must be float32 of shape {shape}, got "
                f"{array.dtype} of shape {array.shape}.")
        if not np.isfinite(array).all():
            raise ValueError(f"`weights` from {source}: {name!r} holds numbers that are not finite.")
