"""The optimizers that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

Builder = Callable[..., keras.optimizers.Optimizer]


class ScheduleFree(keras.optimizers.ScheduleFreeAdamW):
    """Keras's schedule-free AdamW, evaluated where the method says (Defazio et al. 2024): at the
    average x, while between steps the model holds y = (1 - beta_1) z + beta_1 x."""

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        for variable in var_list:
            fast = self._momentums[self._get_variable_index(variable)]
            if fast is not None:
                self.assign(variable, (variable - (1 - self.beta_1) * fast) / self.beta_1)
        super().finalize_variable_values(var_list)


class Optax(keras.optimizers.Optimizer):
    """An optimizer of optax as one of Keras, on the JAX backend.

    Args:
        transformation: what optax gives; it brings its own learning rate, and `learning_rate`
            multiplies its updates.
    """

    def __init__(self, transformation: Any, learning_rate: float = 1.0, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._transformation = transformation

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        import jax

        leaves, self._structure = jax.tree.flatten(
            self._transformation.init([variable.value for variable in variables]))
        self._leaves = [
            self.add_variable(leaf.shape, initializer=lambda shape, dtype=None, leaf=leaf: leaf,
                              dtype=str(leaf.dtype), name=f"state_{i}")
            for i, leaf in enumerate(leaves)]

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[keras.Variable], learning_rate: Any
    ) -> None:
        import jax

        values = [ops.convert_to_tensor(variable) for variable in trainable_variables]
        state = jax.tree.unflatten(
            self._structure, [ops.convert_to_tensor(leaf) for leaf in self._leaves])
        updates, state = self._transformation.update(list(grads), state, values)
        for variable, value, update in zip(trainable_variables, values, updates):
            self.assign(variable, value + learning_rate * update)
        for leaf, value in zip(self._leaves, jax.tree.leaves(state)):
            self.assign(leaf, value)


class Torch(keras.optimizers.Optimizer):
    """An optimizer of PyTorch as one of Keras, on the JAX backend.

    Its steps run on the host, in an ordered callback: inside compiled programs and `lax.scan` too,
    but not under `vmap`. Its state is not among the Keras optimizer's variables; step 0 makes it
    anew. The time of a step includes the way there and back; `eval.runs.torch_step` has it without.

    Args:
        make: gives the PyTorch optimizer of a list of tensors.
        learning_rate: of all its groups, set at each step.

    Raises:
        RuntimeError: at a first step that is not step 0, as after a restart: the state is gone.
    """

    def __init__(self, make: Callable[[list[Any]], Any], learning_rate: Any, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.make, self._inner = make, None

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[keras.Variable], learning_rate: Any
    ) -> None:
        import jax
        from jax.experimental import io_callback

        values = [ops.convert_to_tensor(variable) for variable in trainable_variables]
        shapes = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in values]
        found = io_callback(
            self._host_step, shapes, self.iterations.value, ops.convert_to_tensor(learning_rate),
            list(grads), values, ordered=True)
        for variable, value in zip(trainable_variables, found):
            self.assign(variable, value)

    def _host_step(self, step: Any, rate: Any, grads: list[Any], values: list[Any]) -> list[Any]:
        """The values after a step; all arguments are arrays."""
        import numpy as np
        import torch

        if int(step) == 0:
            self._tensors = [torch.tensor(np.array(value)) for value in values]
            self._inner = self.make(self._tensors)
        if self._inner is None:
            raise RuntimeError(f"an optimizer of PyTorch cannot go on at step {int(step)}: its "
                               "state was not kept.")
        for tensor, value, grad in zip(self._tensors, values, grads):
            tensor.copy_(torch.tensor(np.array(value)))
            tensor.grad = torch.tensor(np.array(grad))
        for group in self._inner.param_groups:
            group["lr"] = float(rate)
        self._inner.step()
        return [tensor.numpy().copy() for tensor in self._tensors]


def _soap(learning_rate: Any = 0.003, **settings: Any) -> Torch:
    try:
        from pytorch_optimizer import SOAP
    except ImportError as error:
        raise ImportError("soap needs `pip install torch pytorch-optimizer`") from error

    def make(tensors: list[Any]) -> Any:
        # A convnet's last layer has thousands of rows, each to be an axis of that length.
        return SOAP(tensors, max_precondition_dim=1024)

    return Torch(make, learning_rate, **settings)


def _of_optax(name: str) -> Builder:
    def build(**settings: Any) -> Optax:
        import optax

        return Optax(getattr(optax.contrib, name)(), **settings)

    return build


# The paper's.
BASELINES: dict[str, Builder] = {
    "adam": keras.optimizers.Adam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": partial(keras.optimizers.SGD, momentum=0.9),
}
# Those whose learning rate is tuned, and those that are used as they come, as the learned one is.
TUNED: dict[str, Builder] = {**BASELINES, "adamw": keras.optimizers.AdamW}
UNTUNED: dict[str, Builder] = {
    "schedule_free": ScheduleFree,
    "prodigy": _of_optax("prodigy"),
    "dadapt": _of_optax("dadapt_adamw"),
}
# Of PyTorch, called from JAX.
TORCH = ("soap",)
JAX_ONLY = ("prodigy", "dadapt", *TORCH)
# What switches choose among, and the switches, as they come: none of them is tuned.
MOMENTA = (0.5, 0.9, 0.99)
FIXED: dict[str, Builder] = {
    **{f"sgd_{value:g}": partial(keras.optimizers.SGD, learning_rate=0.1, momentum=value)
       for value in MOMENTA},
    **{f"adam_{value:g}": partial(keras.optimizers.Adam, beta_1=value) for value in MOMENTA},
    "muon": keras.optimizers.Muon,
    "sgd_plain": keras.optimizers.SGD,
}


def _switch_among(*names: str) -> Builder:
    def build(**settings: Any) -> keras.optimizers.Optimizer:
        from hrnn_opt import GreedySwitch, LearnedOpt

        return GreedySwitch(
            [LearnedOpt(name) if name == "rule" else BASELINES[name]() for name in names],
            **settings)

    return build


def _switch_of(kind: str, **usual: Any) -> Builder:
    def build(**settings: Any) -> keras.optimizers.Optimizer:
        from hrnn_opt import GreedySwitch

        return getattr(GreedySwitch, kind)(**usual, **settings)

    return build


SWITCHES: dict[str, Builder] = {
    "switch_sgd": _switch_of("sgd", holdout=False, smoothing=0.0),
    "switch_sgd_holdout": _switch_of("sgd"),
    "switch_adam": _switch_of("adam"),
    "switch_mixed": _switch_among("adam", "rmsprop", "sgd"),
    "switch_rule": _switch_among("adam", "rule"),
}
# By switch. `rule` is a learned optimizer's weights.
CANDIDATES: dict[str, tuple[str, ...]] = {
    "switch_sgd": tuple(f"sgd_{value:g}" for value in MOMENTA),
    "switch_sgd_holdout": tuple(f"sgd_{value:g}" for value in MOMENTA),
    "switch_adam": tuple(f"adam_{value:g}" for value in MOMENTA),
    "switch_mixed": ("adam", "rmsprop", "sgd"),
    "switch_rule": ("adam", "rule"),
}
# The baselines of today, tuned or as they come, and where each is from. Neither Keras nor optax has
# SOAP; so that it runs on the same gradients as all others, PyTorch's is called from JAX.
TODAY: dict[str, Builder] = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "schedule_free": ScheduleFree,
    "prodigy": UNTUNED["prodigy"],
    "muon": keras.optimizers.Muon,
    "soap": _soap,
}
LIBRARIES = {
    "adam": ("keras", "keras.optimizers.Adam"),
    "adamw": ("keras", "keras.optimizers.AdamW"),
    "schedule_free": ("keras", "keras.optimizers.ScheduleFreeAdamW"),
    "prodigy": ("optax", "optax.contrib.prodigy"),
    "muon": ("keras", "keras.optimizers.Muon"),
    "soap": ("pytorch-optimizer", "pytorch_optimizer.SOAP, max_precondition_dim=1024"),
}
# Of the rates that are tuned. Prodigy's multiplies the one that it finds itself, 1 as it comes,
# where others' grid of 1e-4 to 1 has 1e-2 in its middle.
RATE_FACTORS = {"prodigy": 100.0}
LEARNED = "hrnn"
LEARNED_SETTINGS = ("weights", "initial_learning_rate", "state_dtype")
OPTIMIZERS = tuple(dict.fromkeys(
    (LEARNED, *TUNED, *UNTUNED, *FIXED, *SWITCHES, *TODAY)))
SCHEDULES = ("constant", "cosine")


def told(optimizer: keras.optimizers.Optimizer, loss: Any) -> dict[str, Any]:
    """What a step is given beside gradients: learned optimizers may read the loss."""
    from hrnn_opt import LearnedOpt

    return {"loss": loss} if isinstance(optimizer, LearnedOpt) else {}


def build(name: str, *, learning_rate: float | None, schedule: str, steps: int,
          **settings: Any) -> keras.optimizers.Optimizer:
    """A new optimizer.

    Args:
        name: one of `OPTIMIZERS`.
        learning_rate: None leaves the optimizer its own.
        schedule: `"constant"`, or `"cosine"`: the learning rate decays to 0 over `steps`.
        steps: number of training steps.
        settings: further arguments of the optimizer; None leaves it its own.

    Raises:
        ValueError: if the cosine schedule has no rate to decay from.
    """
    if schedule == "cosine":
        if learning_rate is None:
            raise ValueError("the cosine schedule needs a learning rate to decay from.")
        learning_rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    settings = {"learning_rate": learning_rate, **settings}
    settings = {key: value for key, value in settings.items() if value is not None}
    if name == LEARNED:
        from hrnn_opt import LearnedOpt
        from hrnn_opt.files.resolve import resolve

        # Others may read how much is done of a training whose length they are told: those of
        # `eval` are not.
        if steps and "horizon" in resolve(settings.get("weights", "default")).needs:
            settings["num_steps"] = steps
        return LearnedOpt(**settings)
    return {**TUNED, **UNTUNED, **FIXED, **SWITCHES, **TODAY}[name](**settings)
