"""The names that the authors' released TensorFlow 1 program gives the meta-parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.network import HierarchicalRNN
from hrnn_opt.weights import Pretrained

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


def from_released(arrays: Mapping[str, np.ndarray], lookahead: bool) -> Pretrained:
    """Weights from the released program's variables.

    Args:
        arrays: by their names there; the scope before the names (`"LOL/"`, say) does not matter.
        lookahead: whether their optimizer ran with attention.

    Raises:
        ValueError: if a variable is missing, ambiguous or of a size that does not fit.
    """
    config = _config(arrays, lookahead)
    ours = {}
    for name, variable in HierarchicalRNN(config).meta_parameters.items():
        array = _find(arrays, NAMES[name])
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
    found = [key for key in arrays if key == name or key.endswith("/" + name)]
    if len(found) != 1:
        raise ValueError(
            f"`arrays` must have one variable named {name!r}, got {found or 'none'}.")
    return np.asarray(arrays[found[0]])
