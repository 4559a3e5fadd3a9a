"""The devices of a training run: members of every estimate are spread over all that JAX sees.

One process may have many devices, and `jax.distributed` joins processes; either way the program is
the same, and the compiler puts in the sums over devices.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import TrainConfig


class Devices:
    """How arrays lie on the devices.

    Args:
        config: of the training run; its members are shared out evenly.

    Attributes:
        members: the sharding of arrays whose first axis is the members.
        everywhere: the sharding of arrays that every device holds whole.

    Raises:
        ValueError: if the members cannot be shared out evenly.
    """

    def __init__(self, config: TrainConfig) -> None:
        devices = np.array(jax.devices())
        if config.members % devices.size:
            raise ValueError(
                f"`members` must be a multiple of the number of devices, {devices.size}, got "
                f"{config.members}.")
        mesh = Mesh(devices, ("members",))
        self.members = NamedSharding(mesh, PartitionSpec("members"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())

    def replicate(self, tree: Any) -> Any:
        """The same values on every device."""
        return jax.device_put(tree, self.everywhere)

    def spread(self, tree: Any) -> Any:
        """Whole arrays, the same in every process, with their members spread over the devices."""
        return jax.tree.map(
            lambda leaf: jax.make_array_from_callback(
                leaf.shape, self.members, lambda index, leaf=leaf: np.asarray(leaf[index])), tree)

    def gather(self, tree: Any) -> Any:
        """Whole arrays, in every process, of members that are spread."""
        if jax.process_count() == 1:
            return tree
        return multihost_utils.process_allgather(tree, tiled=True)


def writes() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0
