"""Training on all devices, by each backend's own means: `keras.distribution` on JAX,
`tf.distribute` on TensorFlow, DistributedDataParallel on PyTorch."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import keras

from eval.imagenet.images import Process


class _SplitKernels(keras.distribution.ModelParallel):
    """Data parallel over the mesh axis `batch`; kernels are split over the axis `model`, by their
    output features, where these can be."""

    def __init__(self, devices: int, parts: int) -> None:
        mesh = keras.distribution.DeviceMesh((devices // parts, parts), ("batch", "model"))
        super().__init__(layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="batch",
                         auto_shard_dataset=False)
        self._parts = parts

    def get_variable_layout(self, variable: keras.Variable) -> Any:
        shape = variable.shape
        if (getattr(variable, "_layout", None) is None and variable.path.endswith("/kernel")
                and shape[-1] % self._parts == 0):
            return keras.distribution.TensorLayout(
                (*(None,) * (len(shape) - 1), "model"), self.device_mesh)
        return super().get_variable_layout(variable)


class Devices:
    """All devices that this process and its partners have.

    Args:
        model_parallel: devices that a kernel is split over; on JAX alone. 1 for none.

    Attributes:
        process: this process among those that train together.
        count: number of devices that share a batch.

    Raises:
        ValueError: if the devices cannot be divided so.
    """

    def __init__(self, model_parallel: int = 1) -> None:
        backend = keras.backend.backend()
        if model_parallel > 1 and backend != "jax":
            raise ValueError(f"`model_parallel` must be 1 on {backend}, got {model_parallel}.")
        self.process, self.count = Process(), 1
        self._strategy = None
        getattr(self, f"_on_{backend}")(model_parallel)

    def _on_jax(self, model_parallel: int) -> None:
        import jax

        devices = jax.device_count()
        if devices % model_parallel:
            raise ValueError(
                f"`model_parallel` must divide the number of devices, {devices}, got "
                f"{model_parallel}.")
        if jax.process_count() > 1:
            self.process = Process(jax.process_index(), jax.process_count())
            if jax.local_device_count() % model_parallel:
                raise ValueError(
                    "`model_parallel` must divide the number of devices of a process, "
                    f"{jax.local_device_count()}, got {model_parallel}.")
        self.count = devices // model_parallel
        if model_parallel > 1:
            keras.distribution.set_distribution(_SplitKernels(devices, model_parallel))
        elif devices > 1:
            keras.distribution.set_distribution(
                keras.distribution.DataParallel(auto_shard_dataset=False))

    def _on_tensorflow(self, model_parallel: int) -> None:
        import tensorflow as tf

        gpus = tf.config.list_logical_devices("GPU")
        devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
        if len(devices) > 1:
            self._strategy = tf.distribute.MirroredStrategy(devices)
            self.count = len(devices)

    def _on_torch(self, model_parallel: int) -> None:
        import torch

        # What torchrun sets.
        if "WORLD_SIZE" not in os.environ or os.environ["WORLD_SIZE"] == "1":
            return
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.count = torch.distributed.get_world_size()
        self.process = Process(torch.distributed.get_rank(), self.count)

    def scope(self) -> contextlib.AbstractContextManager:
        """Where models are made and compiled."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def run(self, function: Any) -> None:
        """Call a function on each device, where the backend asks for that."""
        if self._strategy:
            self._strategy.run(function)
        else:
            function()

    def model(self, network: keras.Model) -> keras.Model:
        """The model to compile for a network."""
        if keras.backend.backend() == "torch" and self.process.count > 1:
            return _Parallel(network)
        return network


def use_hosts(coordinator: str, processes: int, process: int) -> None:
    """Join the other processes of a run on JAX; before anything else asks for devices."""
    keras.distribution.initialize(coordinator, processes, process)


@keras.saving.register_keras_serializable(package="eval")
class _Parallel(keras.Model):
    """A network whose gradients are averaged over processes as they are computed."""

    def __init__(self, network: keras.Model) -> None:
        import torch

        super().__init__(name=network.name)
        self.network = network
        # In a tuple of no attribute that Keras looks at: its parameters are the network's.
        object.__setattr__(
            self, "_parallel", (torch.nn.parallel.DistributedDataParallel(network),))
        self.build((None, *network.input_shape[1:]))

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, images: Any, training: bool = False) -> Any:
        called = self._parallel[0] if training else self.network
        return called(images, training=training)
