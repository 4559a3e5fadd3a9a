"""Training on many devices gives what one gives, and the state lies where the variables do."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from hrnn_opt.places.layout import Layout
from hrnn_opt.places.sharding import ShardedLayout
from tests import quickly
from tests.hrnn_opt.support import assert_close, data, hierarchical_optimizer, model, values

ROOT = pathlib.Path(__file__).parents[2]

# Split over both axes, one, the other, none; sizes that no number of devices divides.
SHAPES = [(6, 8), (4, 5, 2), (3, 4), (7,), ()]
SPECS = [(("a",), ("b",)), ((), (), ("a",)), ((), ("b",)), ((),), ()]
MESHES = {
    "one axis": ({"b": 4}, [tuple(tuple(n for n in over if n == "b") for over in spec)
                            for spec in SPECS]),
    "two axes": ({"a": 2, "b": 4}, SPECS),
    "an axis of both": ({"a": 2, "b": 4}, [((), ("a", "b")), *SPECS[1:]]),
}


@pytest.mark.jax_only
@pytest.mark.parametrize("mesh, specs", MESHES.values(), ids=MESHES)
def test_a_sharded_layout_is_a_layout(mesh, specs):
    rng = np.random.default_rng(0)
    plain, sharded = Layout(SHAPES), ShardedLayout(SHAPES, specs, mesh)
    tensors = [rng.normal(size=(3, *shape)).astype("float32") for shape in SHAPES]
    buffer = ops.convert_to_numpy(sharded.flatten(tensors))
    assert buffer.shape == (3, sharded.blocks, sharded.lanes)
    for tensor, again in zip(tensors, sharded.unflatten(buffer)):
        np.testing.assert_array_equal(ops.convert_to_numpy(again), tensor)
    for k, tensor in sharded.some_of(buffer, [1, 2]).items():
        np.testing.assert_array_equal(ops.convert_to_numpy(tensor), tensors[k])
    mixed = sharded.unflatten(sharded.with_some(buffer, {1: 2.0 * tensors[1]}))
    for k, tensor in enumerate(mixed):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(tensor), (2.0 if k == 1 else 1.0) * tensors[k])
    # Numbers in the padding, which must not count.
    used = ops.convert_to_numpy(sharded.flatten([np.ones((1, *shape)) for shape in SHAPES]))
    dirty = np.where(used == 0, 1e3, buffer).astype("float32")
    means = ops.convert_to_numpy(sharded.tensor_mean(dirty))
    np.testing.assert_allclose(
        means, ops.convert_to_numpy(plain.tensor_mean(plain.flatten(tensors))), atol=1e-6)
    np.testing.assert_allclose(
        ops.convert_to_numpy(sharded.model_mean(means)),
        ops.convert_to_numpy(plain.model_mean(means)))
    lanes = np.broadcast_to(ops.convert_to_numpy(sharded.to_lanes(means)), buffer.shape)
    for k, tensor in enumerate(sharded.unflatten(lanes)):
        expected = np.broadcast_to(means[:, k].reshape(3, *(1,) * len(SHAPES[k])), tensor.shape)
        np.testing.assert_array_equal(ops.convert_to_numpy(tensor), expected)
    np.testing.assert_array_equal(
        sharded.to_file(buffer), ops.convert_to_numpy(plain.flatten(tensors)))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(sharded.from_file(sharded.to_file(buffer))), buffer)


@pytest.mark.jax_only
def test_a_shard_holds_its_own_part_of_a_tensor():
    """Cut where the mesh cuts: nothing has to move between devices."""
    mesh, specs = MESHES["two axes"]
    sharded = ShardedLayout(SHAPES, specs, mesh)
    tensors = [np.zeros(shape, "float32") for shape in SHAPES]
    # What the device at (a, b) = (1, 2) has of each tensor that is split over these.
    tensors[0][3:, 4:6], tensors[2][:, 2] = 1, 1
    shards = ops.convert_to_numpy(sharded.flatten(tensors)).reshape(8, -1).sum(axis=1)
    # The second is split over b alone: its column is shared with the device at (0, 2).
    assert shards.tolist() == [0, 0, 2, 0, 0, 0, 6 + 1, 0]


def start(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A program of this folder in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/hrnn_opt" / program), *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


def finish(process: subprocess.Popen) -> str:
    """What the process printed."""
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out


@pytest.mark.jax_only
def test_eight_jax_devices_train_as_one(tmp_path):
    flags = f"{quickly.FLAGS} --xla_force_host_platform_device_count=8"
    report = json.loads(finish(start("distributed.py", str(tmp_path), XLA_FLAGS=flags)))
    shares = [way.pop("share") for way in report.values()]
    # The state is where the variables are: on all of them, or an equal part on each.
    assert shares == [1, 1 / 4, 1 / 8]
    assert {name for way in report.values() for name in way} == {
        "trained", "loaded on many", "loaded on one"}
    for name, way in report.items():
        assert max(way.values()) < 1e-4, (name, way)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_two_torch_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        start("distributed_torch.py", str(tmp_path / "two.npz"), MASTER_ADDR="127.0.0.1",
              MASTER_PORT=port, RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)]
    from tests.hrnn_opt.distributed_torch import STEPS

    network = model(optimizer=hierarchical_optimizer(lookahead=True, weight_decay=0.01))
    for _ in range(STEPS):
        network.train_on_batch(*data())
    for process in processes:
        finish(process)
    with np.load(tmp_path / "two.npz") as file:
        two = [file[name] for name in file]
    assert_close(two, values([*network.weights, *network.optimizer.variables]), 1e-4)
