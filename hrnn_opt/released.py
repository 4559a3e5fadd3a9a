"""The names that the authors' released TensorFlow 1 program gives the meta-parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.files import read_npz
from hrnn_opt.network import HierarchicalRNN
from hrnn_opt.weights import LARGEST_FILE, Pretrained

_GRU = {
    "gates_kernel": "gates/Affine/Matrix",
    "gates_bias": "gates/Affine/Bias",
    "candidate_kernel": "candidate/Affine/Matrix",
    "candidate_bias": "candidate/Affine/Bias",
}
_LEVELS = {
    "parameter_rnn": "PerTensor/Layer0_RNN",
    "tensor_rnn": "PerTensor/Layer1_RNN",
    "global_rnn": "Layer2_RNN",
}
# Ours -> theirs, below the scope of their optimizer.
NAMES = {
    **{
        f"{ours}/{name}": f"{theirs}/BiasGRUCell/{their_name}"
        for ours, theirs in _LEVELS.items()
        for name, their_name in _GRU.items()
    },
    "parameter_start": "Level0_RNN/init_vector",
    "tensor_start": "Level1_RNN/init_vector",
    "global_start": "Level2_RNN/init_vector",
    "tensor_to_parameter_kernel": "PerTensor/Layer0_RNN/Param/Affine/Matrix",
    "tensor_to_parameter_bias": "PerTensor/Layer0_RNN/Param/Affine/Bias",
    "global_to_parameter_kernel": "PerTensor/Layer0_RNN/Global/Affine/Matrix",
    "global_to_parameter_bias": "PerTensor/Layer0_RNN/Global/Affine/Bias",
    "global_to_tensor_kernel": "PerTensor/Layer1_RNN/Affine/Matrix",
    "global_to_tensor_bias": "PerTensor/Layer1_RNN/Affine/Bias",
    "direction_weights": "update_weights",
    "attention_weights": "attention_weights",
    "direction_shortcut": "PerTensor/GradsToDelta/Matrix",
    "attention_shortcut": "PerTensor/GradsToAttnDelta/Matrix",
    "scale_decay_weights": "scl_decay_weights",
    "scale_decay_bias": "scl_decay_bias",
    "input_decay_weights": "inp_decay_weights",
    "input_decay_bias": "inp_decay_bias",
    "learning_rate_weights": "learning_rate_weights",
    "learning_rate_bias": "learning_rate_bias",
    "learning_rate_momentum_logit": "PerTensor/learning_rate_momentum_logit",
    "step_size_offset": "PerTensor/param_stepsize_offset",
}


def read_released(path: str | os.PathLike[str]) -> Pretrained:
    """Weights from a file with the released program's variables.

    Args:
        path: of a TensorFlow checkpoint (what comes before `.index`; needs TensorFlow), or of an
            .npz file. Other variables in it, such as the state of their meta-optimizer, are left
            out.

    Raises:
        ValueError: if it cannot be read, or as `from_released`.
        ImportError: without TensorFlow, at a checkpoint.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            return from_released(read_npz(path, LARGEST_FILE))
        return from_released(_checkpoint(path))
    except ValueError as error:
        raise ValueError(f"`path` {path.name!r}: {error}") from None


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
            if any(_is(name, theirs) for theirs in NAMES.values())}
        if 4 * sum(int(np.prod(shape)) for shape in shapes.values()) > LARGEST_FILE:
            raise ValueError(f"its variables have more than {LARGEST_FILE} bytes")
        return {name: reader.get_tensor(name) for name in shapes}
    # All but the first are what TensorFlow makes of some of its own.
    except (tf.errors.OpError, RuntimeError, LookupError, TypeError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"not a TensorFlow checkpoint, or a damaged one ({reason})") from None


def from_released(
    arrays: Mapping[str, np.ndarray], lookahead: bool | None = None
) -> Pretrained:
    """Weights from the released program's variables.

    Args:
        arrays: by their names there; the scope before the names (`"LOL/"`, say) does not matter.
        lookahead: whether their optimizer ran with attention. None: if it has variables for it.

    Raises:
        ValueError: if a variable is missing, ambiguous or of a size that does not fit.
    """
    if lookahead is None:
        lookahead = any(_is(key, NAMES["attention_weights"]) for key in arrays)
    config = _config(arrays, lookahead)
    ours = {}
    for name, variable in HierarchicalRNN(config).meta_parameters.items():
        array = _find(arrays, NAMES[name])
        if array.dtype.kind != "f":
            raise ValueError(f"`arrays`: {NAMES[name]!r} must hold floats, got {array.dtype}.")
        if array.size != np.prod(variable.shape):
            raise ValueError(
                f"`arrays`: {NAMES[name]!r} must have shape {tuple(variable.shape)}, up to axes of "
                f"length 1, got {array.shape}.")
        ours[name] = np.asarray(array, "float32").reshape(variable.shape)
    return Pretrained(config, ours)


def _config(arrays: Mapping[str, np.ndarray], lookahead: bool) -> HierarchicalRNNConfig:
    return HierarchicalRNNConfig(
        lookahead=lookahead,
        parameter_units=_find(arrays, NAMES["parameter_start"]).size,
        tensor_units=_find(arrays, NAMES["tensor_start"]).size,
        global_units=_find(arrays, NAMES["global_start"]).size,
        time_scales=_find(arrays, NAMES["direction_shortcut"]).size,
    )


def _find(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = [key for key in arrays if _is(key, name)]
    if len(found) != 1:
        raise ValueError(
            f"`arrays` must have one variable named {name!r}, got {found or 'none'}.")
    return np.asarray(arrays[found[0]])


def _is(key: str, name: str) -> bool:
    """Whether a variable has this name, in whatever scope."""
    return key == name or key.endswith("/" + name)
