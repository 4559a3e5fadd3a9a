"""What several test files of the problems share."""

import gzip
import struct

import jax
import numpy as np


def setup(problem, seed=0, num_steps=3):
    """(instance, start, batches) of a problem."""
    def drawn(key):
        keys = jax.random.split(key, 3)
        instance = problem.sample_instance(keys[0])
        start = problem.initial_parameters(keys[1], instance)
        return instance, start, problem.batches(keys[2], 0, num_steps, instance)

    # One program, in place of one for each operation.
    return jax.jit(drawn)(jax.random.key(seed))


def at(batches, step):
    """One step's slice of batches."""
    return jax.tree.map(lambda leaf: leaf[step], batches)


def write_idx(path, array):
    """Writes bytes as an IDX file, gzipped where the name says so."""
    content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, train=32, test=16, suffix=""):
    """Writes a small set of MNIST's format, random but for labels that count up."""
    generator = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28))
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
