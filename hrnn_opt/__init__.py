"""Learned optimization for Keras 3: an optimizer that is itself a recurrent network."""

from hrnn_opt.callbacks import LearningRateDynamics, SwapLookahead
from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.layout import Layout
from hrnn_opt.lstm import CoordinatewiseLSTM, CoordinatewiseLSTMConfig
from hrnn_opt.network import HierarchicalRNN
from hrnn_opt.optimizer import HierarchicalLOpt
from hrnn_opt.schedules import InverseSquareRootDecay
from hrnn_opt.weights import Pretrained

__version__ = "0.1.0"
__all__ = [
    "CoordinatewiseLSTM",
    "CoordinatewiseLSTMConfig",
    "HierarchicalLOpt",
    "HierarchicalRNN",
    "HierarchicalRNNConfig",
    "InverseSquareRootDecay",
    "Layout",
    "LearningRateDynamics",
    "Pretrained",
    "SwapLookahead",
]
