"""Learned optimizers, each in a room of its own; importing this makes all of them known."""

from hrnn_opt.networks.celo import Celo, CeloConfig
from hrnn_opt.networks.celo2 import Celo2, Celo2Config
from hrnn_opt.networks.direction import Direction, DirectionConfig
from hrnn_opt.networks.equivariant import EquivariantRNN, EquivariantRNNConfig
from hrnn_opt.networks.hrnn import HierarchicalRNN, HierarchicalRNNConfig
from hrnn_opt.networks.lstm import CoordinatewiseLSTM, CoordinatewiseLSTMConfig
from hrnn_opt.networks.small_fc import SmallFC, SmallFCConfig
from hrnn_opt.networks.velo import VeLO, VeLOConfig

__all__ = [
    "Celo",
    "Celo2",
    "Celo2Config",
    "CeloConfig",
    "CoordinatewiseLSTM",
    "CoordinatewiseLSTMConfig",
    "Direction",
    "DirectionConfig",
    "EquivariantRNN",
    "EquivariantRNNConfig",
    "HierarchicalRNN",
    "HierarchicalRNNConfig",
    "SmallFC",
    "SmallFCConfig",
    "VeLO",
    "VeLOConfig",
]
