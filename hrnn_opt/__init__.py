"""Learned optimizers for Keras 3."""

from hrnn_opt import networks, rules
from hrnn_opt.files.weights import Pretrained
from hrnn_opt.interface import Field, LearnedOptimizer, NetworkConfig, Seen, Step
from hrnn_opt.networks import (
    CoordinatewiseLSTM,
    CoordinatewiseLSTMConfig,
    Direction,
    EquivariantRNN,
    EquivariantRNNConfig,
    HierarchicalRNN,
    HierarchicalRNNConfig,
)
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register
from hrnn_opt.rules import Alignment, Averaging, Rescaling, Rotation
from hrnn_opt.training.callbacks import LearningRateDynamics, SwapLookahead
from hrnn_opt.training.optimizer import HierarchicalLOpt, LearnedOpt

__version__ = "0.1.0"
__all__ = [
    "Alignment",
    "Averaging",
    "CoordinatewiseLSTM",
    "CoordinatewiseLSTMConfig",
    "Direction",
    "EquivariantRNN",
    "EquivariantRNNConfig",
    "Field",
    "HierarchicalLOpt",
    "HierarchicalRNN",
    "HierarchicalRNNConfig",
    "Layout",
    "LearnedOpt",
    "LearnedOptimizer",
    "LearningRateDynamics",
    "NetworkConfig",
    "Pretrained",
    "Rescaling",
    "Rotation",
    "Seen",
    "Step",
    "SwapLookahead",
    "networks",
    "register",
    "rules",
]
