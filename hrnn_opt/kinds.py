"""The kinds of networks that a weights file or a training config may ask for."""

from __future__ import annotations

from typing import Any

from hrnn_opt.base import Network
from hrnn_opt.config import HierarchicalRNNConfig
from hrnn_opt.lstm import CoordinatewiseLSTM, CoordinatewiseLSTMConfig
from hrnn_opt.network import HierarchicalRNN

NetworkConfig = HierarchicalRNNConfig | CoordinatewiseLSTMConfig


def config_from_dict(values: Any) -> NetworkConfig:
    """The config whose `to_dict` gave these values: without a `kind`, the hierarchical RNN's.

    Raises:
        ValueError: if there is no such kind, a name is none of its switches, or a value is not
            allowed.
    """
    if isinstance(values, dict) and "kind" in values:
        return CoordinatewiseLSTMConfig.from_dict(values)
    return HierarchicalRNNConfig.from_dict(values)


def network_of(config: NetworkConfig, seed: int = 0) -> Network:
    """A new network with this config.

    Args:
        config: its switches.
        seed: of the start values.
    """
    if isinstance(config, CoordinatewiseLSTMConfig):
        return CoordinatewiseLSTM(config, seed=seed)
    return HierarchicalRNN(config, seed=seed)
