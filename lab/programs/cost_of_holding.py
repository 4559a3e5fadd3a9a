"""What it costs in losses that tensors of gradient 0 are left out of a step, and entries whose
gradient has always been 0 held: `docs/compatibility.md`.

`python -m lab.programs.cost_of_holding MNIST NETWORKS WEIGHTS STEPS [SEEDS]`: NETWORKS, WEIGHTS and
SEEDS may be lists with commas; without SEEDS they are 0,1,2. Prints, for each seed, the training
loss with holding over that without it, and, as the size of what means nothing, the same for start
values that differ by a ten-millionth.
"""

import sys

import keras
import numpy as np

from eval.runs import networks
from eval.runs.data import Data, load
from hrnn_opt import LearnedOpt

SCORED = 10_000


def run(
    network: str, weights: str, steps: int, seed: int, data: Data, hold: bool, factor: float = 1.0
) -> float:
    """The training loss on the first pictures, from start values times the factor."""
    model = networks.build(network, data.x_train.shape[1:], 10, seed)
    model.set_weights([np.float32(factor) * value for value in model.get_weights()])
    model.compile(
        optimizer=LearnedOpt(weights, hold_zero_gradients=hold, seed=seed),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rows = np.random.default_rng(seed).integers(0, len(data.y_train), 64 * steps)
    model.fit(data.x_train[rows], data.y_train[rows], batch_size=64, shuffle=False, verbose=0)
    return model.evaluate(
        data.x_train[:SCORED], data.y_train[:SCORED], batch_size=1000, verbose=0)


def main(folder: str, of_networks: str, of_weights: str, steps: str, seeds: str = "0,1,2") -> None:
    """Measure and print."""
    data = load(folder)
    for network in of_networks.split(","):
        for weights in of_weights.split(","):
            for seed in map(int, seeds.split(",")):
                given = network, weights, int(steps), seed, data
                held, let = run(*given, hold=True), run(*given, hold=False)
                nudged = run(*given, hold=False, factor=1 + 1e-7)
                print(f"{network} {weights} {steps} steps, seed {seed}: {held:.5g} / {let:.5g} = "
                      f"{held / let:.4f}, nudged {nudged / let:.4f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
