"""Problems over a data set: minibatches, reshuffled every epoch."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from problems.datasets import Dataset
from problems.problem import Array, BasicProblem, Batch, Instance, Parameters, is_whole


@dataclasses.dataclass(frozen=True, repr=False)
class DataProblem(BasicProblem):
    """An objective over the samples of a data set.

    Args:
      data: how the data come about.
      samples: the size of the data set.
      batch_size: samples in a minibatch, at most `samples`. None for all of them.
      objective_samples: samples in the objective, the first ones: an estimate of the objective on
        all, for data sets too large to be gone through at every step. None for all of them.
    """

    data: Dataset = dataclasses.field(kw_only=True)
    samples: int = dataclasses.field(default=1000, kw_only=True)
    batch_size: int | None = dataclasses.field(default=None, kw_only=True)
    objective_samples: int | None = dataclasses.field(default=None, kw_only=True)

    def check(self) -> None:
        super().check()
        self.require(isinstance(self.data, Dataset), "data", "a data set such as Clusters()")
        self.require_count("samples")
        for name in ("batch_size", "objective_samples"):
            size = getattr(self, name)
            self.require(
                size is None or (is_whole(size) and 1 <= size <= self.samples),
                name,
                f"an integer from 1 to samples={self.samples}, or None for all samples",
            )

    @property
    @abc.abstractmethod
    def data_sizes(self) -> tuple[int, int]:
        """(features, classes) of the data."""

    @abc.abstractmethod
    def loss(
        self, parameters: Parameters, data: Array, labels: Array, instance: Instance
    ) -> Array:
        """The objective on the given samples."""

    def draw(self, key: Array, numbers: dict[str, Any]) -> Instance:
        data, labels = self.data.draw(key, numbers["data"], self.samples, *self.data_sizes)
        return {"data": data, "labels": labels}

    def objective(self, parameters: Parameters, instance: Instance) -> Array:
        data, labels = (instance[name][: self.objective_samples] for name in ("data", "labels"))
        return self.loss(parameters, data, labels, instance)

    def batches(self, key: Array, start: Array, num_steps: int, instance: Instance) -> Batch:
        noise_key, order_key = jax.random.split(key)
        batches = super().batches(noise_key, start, num_steps, instance)
        if self.batch_size is None:
            return batches
        sizes = num_steps, self.samples, self.batch_size
        return batches | {"index": minibatch_indices(order_key, start, *sizes)}

    def minibatch_objective(
        self, parameters: Parameters, instance: Instance, batch: Batch
    ) -> Array:
        if self.batch_size is None:
            return self.loss(parameters, instance["data"], instance["labels"], instance)
        index = batch["index"]
        return self.loss(parameters, instance["data"][index], instance["labels"][index], instance)


def minibatch_indices(
    key: Array, start: Array, num_steps: int, samples: int, batch_size: int
) -> Array:
    """Sample indices (num_steps, batch_size) of steps start .. start + num_steps - 1.

    The minibatches are consecutive pieces of one endless sequence: a random permutation of all
    samples, then another one, and so on. So every sample comes exactly once an epoch also when
    batch_size does not divide samples; a batch may then reach into the next epoch.
    """
    # Counting whole batches and whole epochs apart keeps step * batch_size out of the
    # arithmetic, where it would overflow 32 bits within a long run.
    cycle, within = jnp.divmod(start, samples)
    offset = within * batch_size
    first_epoch = cycle * batch_size + offset // samples
    position = offset % samples + jnp.arange(num_steps * batch_size)
    num_epochs = -(-(samples - 1 + num_steps * batch_size) // samples)

    def order(epoch):
        return jax.random.permutation(jax.random.fold_in(key, epoch), samples)

    orders = jax.vmap(order)(first_epoch + jnp.arange(num_epochs))
    return orders.reshape(-1)[position].reshape(num_steps, batch_size)
