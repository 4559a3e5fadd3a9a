"""Learned optimizers for Keras 3."""

from hrnn_opt import networks, rules
from hrnn_opt.files.weights import Pretrained
from hrnn_opt.interface import Field, LearnedOptimizer, NetworkConfig, Seen, Step
from hrnn_opt.networks import (
    Celo,
    Celo2,
    Celo2Config,
    CeloConfig,
    CoordinatewiseLSTM,
    CoordinatewiseLSTMConfig,
    Direction,
    EquivariantRNN,
    EquivariantRNNConfig,
    HierarchicalRNN,
    HierarchicalRNNConfig,
    SmallFC,
    SmallFCConfig,
    VeLO,
    VeLOConfig,
)
from hrnn_opt.places.layout import Layout
from hrnn_opt.registry import register
from hrnn_opt.rules import Alignment, Averaging, Mu, Rescaling, Rotation
from hrnn_opt.switch.callbacks import SwitchDynamics
from hrnn_opt.switch.optimizer import GreedySwitch
from hrnn_opt.training.callbacks import LearningRateDynamics, RefreshStatistics, SwapLookahead
from hrnn_opt.training.optimizer import HierarchicalLOpt, LearnedOpt
from hrnn_opt.training.statistics import refresh_statistics

__version__ = "0.1.0"
__all__ = [
    "Alignment",
    "Averaging",
    "Celo",
    "Celo2",
    "Celo2Config",
    "CeloConfig",
    "CoordinatewiseLSTM",
    "CoordinatewiseLSTMConfig",
    "Direction",
    "EquivariantRNN",
    "EquivariantRNNConfig",
    "Field",
    "GreedySwitch",
    "HierarchicalLOpt",
    "HierarchicalRNN",
    "HierarchicalRNNConfig",
    "Layout",
    "LearnedOpt",
    "LearnedOptimizer",
    "LearningRateDynamics",
    "Mu",
    "NetworkConfig",
    "Pretrained",
    "RefreshStatistics",
    "Rescaling",
    "Rotation",
    "Seen",
    "SmallFC",
    "SmallFCConfig",
    "Step",
    "SwapLookahead",
    "SwitchDynamics",
    "VeLO",
    "VeLOConfig",
    "networks",
    "refresh_statistics",
    "register",
    "rules",
]
