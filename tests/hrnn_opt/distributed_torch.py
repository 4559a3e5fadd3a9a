"""Trains a small model as one of several processes: `distributed_torch.py FILE` under torchrun.

Each process sees its share of every batch; the first writes the trained parameters to the file.
"""

import sys

import keras
import numpy as np
import torch

from tests.hrnn_opt.support import data, hierarchical_optimizer, model, values

STEPS = 4


def main(file: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    # Another seed, and so another start, in each process: the wrapper takes the first one's.
    network = model(seed=rank)
    learned = hierarchical_optimizer(lookahead=True, weight_decay=0.01)
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = data()
    for _ in range(STEPS):
        parallel.zero_grad()
        loss_of(y[rank::processes], parallel(x[rank::processes])).backward()
        learned.apply([v.value.grad for v in network.trainable_weights], network.trainable_weights)
    if rank == 0:
        np.savez(file, *values([*network.weights, *learned.variables]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
