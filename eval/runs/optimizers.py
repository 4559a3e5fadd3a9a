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
JAX_ONLY = ("prodigy", "dadapt")
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
LEARNED = "hrnn"
LEARNED_SETTINGS = ("weights", "initial_learning_rate", "state_dtype")
OPTIMIZERS = (LEARNED, *TUNED, *UNTUNED, *FIXED, *SWITCHES)
SCHEDULES = ("constant", "cosine")


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

        return LearnedOpt(**settings)
    return {**TUNED, **UNTUNED, **FIXED, **SWITCHES}[name](**settings)
