"""Files that the originals' own programs wrote."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hrnn_opt.checks import Config
from hrnn_opt.files import hub, msgpack
from hrnn_opt.files.atomic import read_npz
from hrnn_opt.files.weights import (
    CONFIG_FILE,
    FILE,
    LARGEST_CONFIG,
    LARGEST_FILE,
    Pretrained,
    read_file,
    shapes_of,
    split,
    usable,
)
from hrnn_opt.interface import NetworkConfig
from hrnn_opt.networks.hrnn import released
from hrnn_opt.networks.released import GROUPS
from hrnn_opt.registry import kinds, rules


def read_released(path: str | os.PathLike[str]) -> Pretrained:
    """Weights from a file with the variables of a program that its authors released.

    Args:
        path: of a TensorFlow checkpoint of Wichrowska et al.'s (what comes before `.index`; needs
            TensorFlow), or of an .npz file of that, or of any optimizer that `load` knows. Other
            variables of theirs, such as the state of the meta-optimizer, are left out.

    Raises:
        ValueError: if it cannot be read, or as `from_released`.
        ImportError: without TensorFlow, at a checkpoint.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            arrays = read_npz(path, LARGEST_FILE)
            return _of_a_kind(_by_release(arrays), {}, ()) or from_released(arrays)
        return from_released(_checkpoint(path))
    except ValueError as error:
        raise ValueError(f"`path` {path.name!r}: {error}") from None


def from_released(
    arrays: Mapping[str, np.ndarray], lookahead: bool | None = None
) -> Pretrained:
    """Weights from the released program's variables.

    Args:
        arrays, lookahead: as in `networks.hrnn.released.config_of`.

    Raises:
        ValueError: if a variable is missing, ambiguous or of a size that does not fit.
    """
    config = NetworkConfig(released.config_of(arrays, lookahead))
    return Pretrained(config, released.from_released(arrays, shapes_of(config)))


def from_pytree(
    arrays: Mapping[str, np.ndarray], constants: Mapping[str, Any] | None = None,
    rules: Sequence[Config] = (),
) -> Pretrained:
    """Weights from arrays by the names that their authors' program gives them.

    Args:
        arrays: by the keys of nested dicts, joined by `/`.
        constants: switches of the config that cannot be told from the arrays.
        rules: configs of the rules around the network, the outermost first.

    Raises:
        ValueError: if they are of no kind that is known, or do not fit together.
    """
    found = _of_a_kind(arrays, constants or {}, rules)
    if found is None:
        raise ValueError(
            "`arrays` must be those of a learned optimizer that is known here, by its authors' "
            f"names, got {sorted(arrays)[:4]!r:.200}.")
    return found


def _of_a_kind(
    arrays: Mapping[str, np.ndarray], constants: Mapping[str, Any], rules: Sequence[Config]
) -> Pretrained | None:
    for cls in kinds().values():
        found = cls.from_released(arrays, constants)
        if found is not None:
            return Pretrained(
                NetworkConfig(found[0], tuple(rules)), found[1], learning_rate=cls.learning_rate)
    return None


# Files that others wrote. What they hold is told by their content.


@dataclasses.dataclass(frozen=True)
class _Known:
    """What files of a repository do not say.

    Attributes:
        constants: switches of the config.
        arrays: meta-parameters that are constants of the program, by the release's names.
        rules: around the network, the outermost first.
        settings: of the weights.
    """

    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Any] = dataclasses.field(default_factory=dict)
    rules: tuple[tuple[str, dict[str, Any]], ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


_KNOWN = {
    # Meta-trained in the maximal-update parametrization. Its decays are in the program alone.
    "btherien/mulo": _Known(
        arrays={"momentum_decays": (0.15216392, 0.14245212, 0.06812963),
                "rms_decays": (0.01079706,),
                "adafactor_decays": (0.18621896, -0.10864615, -0.06185547)},
        rules=(("mu", {}),)),
    "DiamondXL/elo": _Known(
        constants={"step_multiplier": 1.0}, settings={"learning_rate": 1e-3}),
    # Without Adam for vectors, and not made orthogonal.
    "amoudgl/celo2-base": _Known(
        constants={"orthogonalize": False, "adam_vectors": False, "adam_names": ()}),
}
# The other half of a network that lies in two repositories.
_HALVES = ("VeLO_RNN", "VeLO_MLP")
_FILES = ("theta.state", "params", FILE)
_HOW_TO = (
    "Arrays by their authors' names in an .npz file, which their own program can write, are turned "
    "into weights by `python -m eval convert FILE.npz TARGET`.")


def load(path: str | os.PathLike[str]) -> Pretrained:
    """Weights from a file or a folder, ours or what others wrote: Flax's MessagePack
    (`theta.state`, `params` beside a `config.gin`), safetensors of PyLO's networks, .npz files.

    Args:
        path: of either.

    Raises:
        ValueError: if it is none of these, damaged, or a pickle: what could execute something is
            not read.
    """
    path = Path(path)
    if path.is_dir():
        config = path / CONFIG_FILE
        if config.is_file() and _is_ours(read_file(config, LARGEST_CONFIG)):
            return Pretrained.load(path)
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found:
            return Pretrained.load(path)
        path = found[0]
        if _begins_ours(read_file(path, LARGEST_FILE)):
            return Pretrained.load(path.parent)
    content = read_file(path, LARGEST_FILE)
    if _begins_ours(content):
        return Pretrained.from_bytes(content, path.name)
    gin = path.with_name("config.gin")
    constants = _from_gin(read_file(gin, LARGEST_CONFIG).decode("utf-8", "replace")) \
        if path.name == "params" and gin.is_file() else {}
    return _from_content([content], path.name, _Known(constants))


def from_hub(name: str) -> Pretrained:
    """Weights from a repository on the Hub, ours or of others.

    Args:
        name: `user/name` or `user/name@revision`.

    Raises:
        ValueError: as `load`; also if it cannot be had.
        ImportError: without the package `huggingface_hub`.
    """
    config = hub.download(name, CONFIG_FILE, LARGEST_CONFIG)
    content = read_file(config, LARGEST_CONFIG)
    if _is_ours(content):
        return Pretrained.from_pretrained(name)
    repository = name.partition("@")[0]
    # Of the same commit, after which the folder is named.
    names = [f"{repository}@{config.parent.name}"]
    for half, other in (_HALVES, _HALVES[::-1]):
        if repository.endswith(half):
            names.append(repository.removesuffix(half) + other)
    # The authors of Celo say which optimizer it is, PyLO does not.
    file = "theta.state" if b'"optimizer"' in content else FILE
    return _from_content(
        [read_file(hub.download(each, file, LARGEST_FILE), LARGEST_FILE) for each in names],
        f"{name} on the Hub", _KNOWN.get(repository, _Known()))


# Of configs in the repositories of Celo's authors, and of PyLO's networks.
_KEYS = {"optimizer", "input_size", "lstm_hidden_size", "param_inits", "feature_dims"}


def _is_ours(content: bytes) -> bool:
    """Whether a config is ours, or of nobody who is known."""
    try:
        description = json.loads(content)
    except (ValueError, RecursionError):
        # `Pretrained` says what is wrong with it.
        return True
    return not isinstance(description, dict) or not set(description) & _KEYS


def _begins_ours(content: bytes) -> bool:
    """Whether it is safetensors with our metadata, or nothing that is known: `Pretrained` then says
    what is wrong with it."""
    if msgpack.is_map(content) or content[:2] in (b"PK", *_PICKLES):
        return False
    try:
        return "format" in (split(content)[0].get("__metadata__") or {})
    except (ValueError, struct.error, AttributeError, RecursionError):
        return True


_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))


def _from_content(contents: list[bytes], source: str, known: _Known) -> Pretrained:
    with usable(source):
        arrays: dict[str, Any] = {
            name: np.array(value, "float32") for name, value in known.arrays.items()}
        for content in contents:
            arrays |= _arrays(content)
        weights = from_pytree(_by_release(arrays), known.constants, [
            rules()[name].Config.from_dict(switches) for name, switches in known.rules])
        return dataclasses.replace(weights, **known.settings)


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file of any format that is known, by the names in it."""
    if content[:2] in _PICKLES:
        raise ValueError(f"they are a pickle, which is not read: it could execute anything. "
                         f"{_HOW_TO}")
    if content[:2] == b"PK":
        try:
            return read_npz(io.BytesIO(content), LARGEST_FILE)
        except ValueError as error:
            raise ValueError(f"{error}. {_HOW_TO}") from None
    if msgpack.is_map(content):
        value = msgpack.load(content)
        # Google's files have more around the meta-parameters; the oldest are a triple.
        for key in ("params", "0"):
            if isinstance(value.get(key), dict):
                value = value[key]
        return msgpack.flat(value)
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"they are of no format that is known ({error}). {_HOW_TO}") from None


def _from_gin(text: str) -> dict[str, Any]:
    """The switches of VeLO in a `config.gin`."""
    flags = dict(re.findall(r"^\s*HyperV2\.(\w+)\s*=\s*(\S+)", text, re.MULTILINE))
    if flags.get("use_bugged_next_lstm_state") == "True":
        raise ValueError(
            "`weights` beside this config.gin must be of an LSTM that keeps its state: those with "
            "`use_bugged_next_lstm_state` are not supported.")
    # The program's own default is the flaw.
    return {"flawed_losses": flags.get("use_bugged_loss_features", "True") == "True"} \
        if flags else {}


def _by_release(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyLO's arrays by the names of the releases that it ports; others as they are. PyTorch keeps
    (outputs, inputs)."""
    if "network.input.weight" in arrays:
        return _meta_mlp(arrays)
    if "w0.0" in arrays:
        return _celo2_mlp(arrays)
    if "lstm.linear.weight" in arrays or "input_weights_" in arrays:
        return _velo(arrays)
    return arrays


def _meta_mlp(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    last = 1 + sum(re.fullmatch(r"network\.linear_\d+\.weight", name) is not None
                   for name in arrays)
    layers = {"input": 0, "output": last} | {f"linear_{i}": i + 1 for i in range(last - 1)}
    found: dict[str, np.ndarray] = {
        "momentum_decays": np.zeros(3), "rms_decays": np.zeros(1), "adafactor_decays": np.zeros(3)}
    for name, array in arrays.items():
        match = re.fullmatch(r"network\.(\w+)\.(weight|bias)", name)
        if match and match[1] in layers:
            i = layers[match[1]]
            found[f"nn/~/{'w' if match[2] == 'weight' else 'b'}{i}"] = array.T
        else:
            found[name] = array
    return found


def _celo2_mlp(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(w0|dense_w|dense_b)\.(\d+)|b0", name)
        if not match:
            found[name] = array
            continue
        theirs = {"w0": f"w0__{match[2]}", "dense_w": f"w{int(match[2] or 0) + 1}",
                  "dense_b": f"b{int(match[2] or 0) + 1}", None: "b0"}[match[1]]
        found[f"ff_mod_stack/~/{theirs}"] = array
    return found


_VELO_LAYERS = {
    "mix_layer1": "linear", "mix_layer2": "linear_1", "final_mix_layer": "linear_2",
    "lstm.linear": "rnn/linear", "rnn_to_controls": "rnn_to_controls", "step_size": "step_size"}


def _velo(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found, last = {}, 1 + sum(name.startswith("hidden_weights_.") for name in arrays)
    for name, array in arrays.items():
        layer, _, part = name.rpartition(".")
        match = re.fullmatch(r"(input|hidden|output)_(weights|bias)(_?)(\.\d+)?", name)
        if layer in _VELO_LAYERS and part in ("weight", "bias"):
            found[f"rnn_params/{_VELO_LAYERS[layer]}/{part[0]}"] = array.T
        elif name in ("lstm_init_state.0", "lstm_init_state.1"):
            found[f"lstm_init_state/{('hidden', 'cell')[int(part)]}"] = array
        elif match and not match[3]:
            # Scratch of its program.
            continue
        elif match:
            i = {"input": 0, "output": last}.get(match[1])
            i = int((match[4] or ".0")[1:]) + 1 if i is None else i
            if match[2] == "bias":
                found[f"ff_mod_stack/~/b{i}"] = array
            elif i:
                found[f"ff_mod_stack/~/w{i}"] = np.swapaxes(array, -2, -1)
            else:
                ends = np.cumsum(GROUPS)[:-1]
                parts = np.split(np.swapaxes(array, -2, -1), ends, axis=-2)
                found |= {f"ff_mod_stack/~/w0__{k}": part for k, part in enumerate(parts)}
        else:
            found[name] = array
    return found


def _checkpoint(path: Path) -> dict[str, np.ndarray]:
    if not path.with_name(f"{path.name}.index").is_file():
        raise ValueError(f"there is no checkpoint of this name: no {path.name}.index")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "a TensorFlow checkpoint needs TensorFlow: pip install tensorflow-cpu; any machine "
            "that has it can turn one into an .npz file.") from error
    try:
        reader = tf.train.load_checkpoint(str(path))
        shapes = {
            name: shape for name, shape in reader.get_variable_to_shape_map().items()
            if any(released.is_name(name, theirs) for theirs in released.NAMES.values())}
        if 4 * sum(int(np.prod(shape)) for shape in shapes.values()) > LARGEST_FILE:
            raise ValueError(f"its variables have more than {LARGEST_FILE} bytes")
        return {name: reader.get_tensor(name) for name in shapes}
    # All but the first are what TensorFlow makes of some of its own.
    except (tf.errors.OpError, RuntimeError, LookupError, TypeError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"not a TensorFlow checkpoint, or a damaged one ({reason})") from None
