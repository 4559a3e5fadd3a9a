"""Every kind of network and every rule, with weights that all matter, and what drives them.

Whatever is registered is here: a new kind by itself and in all rules, a new rule around a small
network.
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from hrnn_opt import Layout, LearnedOpt, Seen
from hrnn_opt.registry import config_from_dict, kinds, network_of, rules
from tests.hrnn_opt.support import values, variables

BACKEND = keras.backend.backend()
# Of trainings, and about what losses are, for networks that read them.
HORIZON, LOSS = 60, 0.7
SHAPES = ((4, 3), (3,), ())
# What rules are tried around, and the hand-made chain of them, the outermost first.
SMALL = "direction"
# Of kinds whose steps could not be seen beside the parameters.
SWITCHES = {"celo": {"step_multiplier": 3.0}, "velo": {"step_multiplier": 0.1}}
# Kinds that are tried in all rules on every backend; the others are so on JAX.
CHAINED = (SMALL, "equivariant", "hrnn")
CHAIN = ("averaging", "rotation", "alignment", "rescaling")


def _around_small(rule: str) -> dict:
    form = {"kind": SMALL, "rules": [[rule, {}]]}
    made = network_of(config_from_dict(form))
    if "offset" in made.needs and not made.iterates.keeps_offset:
        # There is none without averaging, and nothing for the rule to do.
        form["rules"].insert(0, ["averaging", {}])
    return form


def _forms() -> dict[str, dict]:
    def has_lookahead(kind):
        return "lookahead" in {field.name for field in dataclasses.fields(kinds()[kind].Config)}

    return {
        **{kind: {"kind": kind, **SWITCHES.get(kind, {})} for kind in kinds()},
        "equivariant, gates read all": {
            "kind": "equivariant", "gates_read_inputs": True, "gates_read_run": True},
        **{f"{kind} with lookahead": {"kind": kind, "lookahead": True}
           for kind in kinds() if has_lookahead(kind)},
        **{f"{rule} of {SMALL}": _around_small(rule) for rule in rules()},
        f"alignment of {SMALL}, guarded and reading": {"kind": SMALL, "rules": [
            ["averaging", {}], ["alignment", {"guarded": True, "reads": True}]]},
        **{f"all rules of {kind}": {"kind": kind, "rules": [[rule, {}] for rule in CHAIN]}
           for kind in kinds() if BACKEND == "jax" or kind in CHAINED},
    }


FORMS = _forms()
# For what takes long: each kind, and one of everything; and every rule by itself besides.
FEW = [*kinds(), f"all rules of {SMALL}"]
SOME = [form for form in FORMS if form in FEW or not form.startswith("all rules")]


@functools.cache
def network(form: str):
    """The network of a form, inside its rules: start values, with noise on all of them."""
    made = network_of(config_from_dict(FORMS[form]))
    rng = np.random.default_rng(1)
    for variable in made.meta_parameters.values():
        noise = rng.normal(0, 0.1, variable.shape)
        variable.assign(np.asarray(ops.convert_to_numpy(variable) + noise, "float32"))
    return made


def is_still(form: str) -> bool:
    """Whether what has no gradient does not move."""
    return network(form).still


def gradients(steps: int, seed: int = 0, shapes=SHAPES) -> list[list[np.ndarray]]:
    """For each step, gradients of about 1 that go somewhere: steps of one size may end where they
    began."""
    rng = np.random.default_rng(seed)
    return [[(0.3 + rng.normal(size=shape)).astype("float32") for shape in shapes]
            for _ in range(steps)]


def optimizer(form: str, **arguments) -> LearnedOpt:
    """The form as a Keras optimizer whose steps are of a visible size."""
    if network(form).takes_log_rates:
        arguments = {"initial_learning_rate": (1e-3, 1e-2), **arguments}
    return LearnedOpt(**{
        "weights": network(form), "learning_rate": 0.05, "seed": 0, "num_steps": HORIZON,
        **arguments})


def compiled(function):
    """The function, compiled where that is worth while: on JAX."""
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function)


def loss_of(grads) -> float:
    """A loss, quite another one with other gradients: of losses that are about the same, some
    networks read how they were rounded."""
    total = sum(np.sum(np.abs(np.float64(g))) for g in grads if g is not None)
    return LOSS * (1.0 + 0.5 * np.sin(total)) if np.isfinite(total) else LOSS


class Run:
    """An optimizer on a few tensors, which can begin anew.

    Args:
        optimizer: the optimizer.
        shapes: of the tensors.
        often: many steps are taken: to compile one pays on TensorFlow too.
    """

    def __init__(self, optimizer: LearnedOpt, shapes=SHAPES, often: bool = False) -> None:
        self.optimizer = optimizer
        self.tensors = variables(shapes)
        optimizer.build(self.tensors)
        self._start = values([*self.tensors, *optimizer.variables])
        self._step = self._compiled(often)

    def _compiled(self, often: bool):
        if BACKEND == "jax":
            step = compiled(self.optimizer.stateless_apply)

            def on_jax(grads, loss):
                new = step([v.value for v in self.optimizer.variables], grads,
                           [v.value for v in self.tensors], loss)
                for variable, value in zip(
                        [*self.tensors, *self.optimizer.variables], [*new[0], *new[1]]):
                    variable.assign(value)

            return on_jax

        def eagerly(grads, loss):
            self.optimizer.apply(grads, self.tensors, loss=loss)

        if BACKEND != "tensorflow" or not often:
            return eagerly
        import tensorflow as tf

        in_graph = tf.function(eagerly, autograph=False)
        return lambda grads, loss: (
            eagerly if any(g is None for g in grads) else in_graph)(grads, loss)

    def begin(self) -> "Run":
        """Back to before the first step."""
        for variable, value in zip([*self.tensors, *self.optimizer.variables], self._start):
            variable.assign(value)
        return self

    def take(self, steps) -> "Run":
        """One step for each list of gradients, None where there is none."""
        for grads in steps:
            self._step([
                None if g is None else ops.convert_to_tensor(g, "float32") for g in grads],
                ops.convert_to_tensor(loss_of(grads), "float32"))
        return self

    @property
    def start(self) -> list[np.ndarray]:
        """The tensors before the first step."""
        return self._start[: len(self.tensors)]

    @property
    def parameters(self) -> list[np.ndarray]:
        """The parameters that are trained."""
        return values(self.optimizer.true_parameters())

    @property
    def everything(self) -> list[np.ndarray]:
        """All that a step changes, but for the counters."""
        return values(self.tensors) + values(
            [v for v in self.optimizer.variables if "float" in str(v.dtype)])

    @property
    def skipped(self) -> int:
        return int(ops.convert_to_numpy(self.optimizer.skipped_steps))


@functools.cache
def _cached(form: str, arguments: tuple) -> Run:
    return Run(optimizer(form, **dict(arguments)), often=True)


def run(form: str, **arguments) -> Run:
    """A run of the form from its start; those with the same arguments share what is compiled."""
    return _cached(form, tuple(sorted(arguments.items()))).begin()


def few_steps(form: str) -> Run:
    """A run for so few steps that only JAX compiles them; those share what is compiled."""
    return run(form) if BACKEND == "jax" else Run(optimizer(form))


# The joint by itself.


def seen(form: str, layout: Layout, step: int, models: tuple[int, ...] = ()) -> Seen:
    """What the network needs to see at a step, of models side by side."""
    rng = np.random.default_rng((step, 5))

    def flat(size):
        return layout.flatten([
            (size * rng.normal(size=(*models, *shape))).astype("float32")
            for shape in layout.shapes])

    given = Seen(flat(1.0), flat(1.0), np.full(models, LOSS, "float32"),
                 np.full(models, 0.1 * step, "float32"), flat(0.1),
                 np.full(models, HORIZON, "float32"))
    needs = network(form).needs | {"gradient"}
    return Seen(**{
        name: ops.convert_to_tensor(value) if name in needs else None
        for name, value in given._asdict().items()})


def begin(form: str, layout: Layout, models: tuple[int, ...] = ()):
    """The state before the first step."""
    rates = np.random.default_rng(3).uniform(
        -7, -4, (*models, layout.blocks, layout.lanes)).astype("float32")
    return network(form).init_state(
        layout, models, ops.convert_to_tensor(rates) if network(form).takes_log_rates else None)


@functools.cache
def step_of(form: str, layout: Layout):
    """The form's step, compiled on JAX: `(state, seen, active, taken)`."""
    return compiled(lambda state, seen, active=None, taken=None: network(form).step(
        layout, state, seen, active, taken))


LAYOUT = Layout(SHAPES)


def numpy(tree):
    """A state or a step by name, in NumPy; what there is none of is left out."""
    tree = tree._asdict() if hasattr(tree, "_asdict") else tree
    return {
        name: np.array(ops.convert_to_numpy(value))
        for name, value in tree.items() if value is not None}


def of_parameters(layout: Layout, step) -> dict[str, np.ndarray]:
    """A step by name, in NumPy, with 0 where the buffer is padding."""
    used = ops.convert_to_numpy(
        layout.flatten([np.ones(shape, "float32") for shape in layout.shapes]))
    return {
        name: np.where(used == 1, value, 0) if value.shape[-2:] == used.shape else value
        for name, value in numpy(step).items()}


def assert_same(ours: dict, theirs: dict, tolerance: float = 0.0) -> None:
    """Arrays by name, to the bit or up to the tolerance of the largest entry."""
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        scale = max(np.abs(theirs[name]).max(initial=0), 1e-30)
        np.testing.assert_allclose(
            value, theirs[name], rtol=0, atol=tolerance * scale, err_msg=name)


