"""The names that the authors' released TensorFlow 1 program gives the meta-parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hrnn_opt.networks.hrnn.config import HierarchicalRNNConfig

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


def config_of(
    arrays: Mapping[str, np.ndarray], lookahead: bool | None = None
) -> HierarchicalRNNConfig:
    """The switches of the released program's variables.

    Args:
        arrays: by their names there; the scope before the names (`"LOL/"`, say) does not matter.
        lookahead: whether their optimizer ran with attention. None: if it has variables for it.

    Raises:
        ValueError: if a variable is missing or ambiguous.
    """
    if lookahead is None:
        lookahead = any(is_name(key, NAMES["attention_weights"]) for key in arrays)
    return HierarchicalRNNConfig(
        lookahead=lookahead,
        parameter_units=_find(arrays, NAMES["parameter_start"]).size,
        tensor_units=_find(arrays, NAMES["tensor_start"]).size,
        global_units=_find(arrays, NAMES["global_start"]).size,
        time_scales=_find(arrays, NAMES["direction_shortcut"]).size,
    )


def from_released(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The released program's variables by our names.

    Args:
        arrays: as in `config_of`.
        shapes: by our names, of the network with that config.

    Raises:
        ValueError: if a variable is missing, ambiguous or of a size that does not fit.
    """
    ours = {}
    for name, shape in shapes.items():
        array = _find(arrays, NAMES[name])
        if array.dtype.kind != "f":
            raise ValueError(f"`arrays`: {NAMES[name]!r} must hold floats, got {array.dtype}.")
        if array.size != np.prod(shape):
            raise ValueError(
                f"`arrays`: {NAMES[name]!r} must have shape {tuple(shape)}, up to axes of "
                f"length 1, got {array.shape}.")
        ours[name] = np.asarray(array, "float32").reshape(shape)
    return ours


def _find(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = [key for key in arrays if is_name(key, name)]
    if len(found) != 1:
        raise ValueError(
            f"`arrays` must have one variable named {name!r}, got {found or 'none'}.")
    return np.asarray(arrays[found[0]])


def is_name(key: str, name: str) -> bool:
    """Whether a variable has this name, in whatever scope."""
    return key == name or key.endswith("/" + name)
