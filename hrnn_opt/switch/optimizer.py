"""The greedy switch: a Keras optimizer that chooses among others, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from hrnn_opt.checks import is_number, require, require_count
from hrnn_opt.places import backend
from hrnn_opt.switch import scores as scores_lib
from hrnn_opt.training.coupled import CoupledOptimizer
from hrnn_opt.training.optimizer import LearnedOpt

SCOPES = ("model", "tensor")
# `smoothing` of power that is held out, and of other scores. Power compares candidates that differ
# little and noisily: with a short memory the choice follows the noise. The first was chosen on
# scikit-learn's digits and three problems of the suite small_real_valid, among 0.9, 0.97, 0.99,
# 0.995 and 0.998.
SMOOTHING = (0.995, 0.9)
# Of the sums that `has_failed` compares, kept from one step of a candidate to its next.
MEMORY = 0.9
# Of what is known of the rises of the others, kept at each step. The bound on the steps of who has
# failed rises as fast.
FADING = 0.99
# A bound on steps that bounds none.
UNBOUNDED = 1e30
# A candidate that has failed often in a row is barred for at most 2^10 times `patience` steps.
MOST_DOUBLINGS = 10
# The slope where a candidate's steps end, relative to that where they start, up to which it is
# clearly down, down, up; beyond, steeply up. With noise good steps too end on one that rises: the
# last was chosen on scikit-learn's digits and two problems of the suite small_real_valid, among
# 0.25 and 0.75.
SLOPES = (-0.25, 0.0, 0.75)
# How many times as long as the longest that did not fail a step may then be.
GROWTH = (2.0, 1.1, 1.0, 0.9)


@keras.saving.register_keras_serializable(package="hrnn_opt")
class GreedySwitch(CoupledOptimizer):
    """Chooses, at every step, the candidate whose update is best aligned with the gradient.

    All candidates are fed the same gradients, on the path of those that are chosen. Their updates
    are scored against the gradient (`hrnn_opt.switch.scores`), and the one with the highest score
    moves the parameters. A step that has made the loss rise is taken back, and the candidate that
    made it is barred for a while, so that a candidate that diverges does not take the others along.

    Memory: the states of all K candidates, and K updates with `holdout`, or else one with `guard`.
    Time: K steps; with `period`, one where the choice stays as it is.

    Args:
        candidates: two or more optimizers, Keras's or ours, not built yet. Their learning rates,
            schedules, clipping and weight decay count; moving averages, accumulation and loss
            scales are the switch's to do.
        scope: `"model"`: one choice for all; `"tensor"`: each tensor chooses for itself.
        score: `"power"`: how fast the loss falls, at the rates that the candidates have;
            `"cosine"`: directions only; `"filter"`: of SGDs or Adams that differ in momentum, as
            filters of one norm.
        holdout: score each candidate's update of the step before against the new gradient, which
            it has not seen. Otherwise a candidate's trust in the newest gradient scores with that
            gradient's own noise, and plain gradient descent has a cosine of 1 in any case. But the
            chosen candidate's step is then judged where it has led, and the others' where they have
            not been: long steps lose. None: False where a candidate is a learned optimizer, of
            which the steps are long, else True.
        smoothing: share of the old score in the smoothed one, at least 0 and below 1. None: 0.995
            for power with `holdout`, else 0.9.
        margin: hysteresis: by how much another must be better, as a share of the present score.
        hold: hysteresis: steps for which a choice stays at least, unless it fails.
        patience: after so many steps in a row in which a candidate's raw score was negative, its
            buffers of momentum are multiplied by `soft_reset`, at each step until it is not.
            Also the steps for which a candidate is barred when it fails; each time in a row doubles
            them.
        soft_reset: from 0 to 1; 1 leaves the buffers alone.
        guard: take back steps that made the loss rise, as far as gradients tell, and shorten those
            that the same candidate makes next; and let steps grow longer than those that did not
            only while they end where the loss still falls.
        period: at the first `trial` steps of every `period` all candidates are computed and may be
            chosen; at the others only the chosen one. 1: all, always.
        trial: see there.
        first: which candidate is chosen before there are scores.
        learning_rate: multiplies the update of the chosen candidate; a float, a schedule or a
            callable.
        weight_decay: decoupled; each step shrinks the parameters by weight_decay * learning_rate.
        clipnorm, clipvalue, global_clipnorm: of the gradients that all candidates see.
        use_ema, ema_momentum, ema_overwrite_frequency: as in every Keras optimizer.
        loss_scale_factor, gradient_accumulation_steps, name: likewise.

    Attributes:
        names: of the candidates, without two alike.
        skipped_steps: number of steps left out because a gradient held a number that is not finite.
        undone_steps: number of steps that were taken back. The gradient that told so is not used.

    Raises:
        ValueError: naming the argument that is not allowed.

    Example:

    >>> model.compile(optimizer=GreedySwitch([keras.optimizers.Adam(), LearnedOpt("rule")]),
    ...               loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y, callbacks=[SwitchDynamics("logs")])

    Reference:
        Lee and Lee, "Greedy Alignment Principle for Optimizer Selection", arXiv 2512.06370: scores,
        switch, hysteresis and soft reset (section 4). Holdout, guard, hold and period are ours.
    """

    def __init__(
        self,
        candidates: Sequence[keras.optimizers.Optimizer],
        scope: str = "model",
        score: str = "power",
        holdout: bool | None = None,
        smoothing: float | None = None,
        margin: float = 0.0,
        hold: int = 0,
        patience: int = 10,
        soft_reset: float = 0.9,
        guard: bool = True,
        period: int = 1,
        trial: int = 20,
        first: int = 0,
        learning_rate: Any = 1.0,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        candidates = _checked(candidates)
        learned = any(isinstance(candidate, LearnedOpt) for candidate in candidates)
        if holdout is None:
            holdout = not learned
        if smoothing is None:
            smoothing = SMOOTHING[0] if holdout and score == "power" else SMOOTHING[1]
        require("scope", scope, scope in SCOPES, f"one of {SCOPES}")
        require("score", score, score in scores_lib.SCORES, f"one of {scores_lib.SCORES}")
        for argument, switched in (("holdout", holdout), ("guard", guard)):
            require(argument, switched, isinstance(switched, bool), "True or False")
        require("smoothing", smoothing, is_number(smoothing) and 0 <= smoothing < 1,
                 "a number of at least 0 and below 1")
        require("margin", margin, is_number(margin) and 0 <= margin < float("inf"),
                 "a finite number of at least 0")
        require("soft_reset", soft_reset, is_number(soft_reset) and 0 <= soft_reset <= 1,
                 "a number from 0 to 1")
        for argument, count, lowest in (("hold", hold, 0), ("patience", patience, 1),
                                        ("period", period, 1), ("trial", trial, 1),
                                        ("first", first, 0)):
            require_count(argument, count, lowest)
        if first >= len(candidates):
            raise ValueError(
                f"`first` must be below the number of candidates, {len(candidates)}, got {first}.")
        if period > 1 and scope == "tensor":
            raise ValueError(
                "`period` must be 1 where each tensor chooses for itself: at any step one of them "
                f"may need any candidate; got {period}.")
        if score == "filter":
            for candidate in candidates:
                scores_lib.filter_factor(candidate, 1)
            if len({isinstance(one, keras.optimizers.SGD) for one in candidates}) > 1:
                raise ValueError(
                    "`candidates` must be all SGD or all Adam for the score 'filter', got "
                    f"{', '.join(type(one).__name__ for one in candidates)}.")
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, clipnorm=clipnorm,
            clipvalue=clipvalue, global_clipnorm=global_clipnorm, use_ema=use_ema,
            ema_momentum=ema_momentum, ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps, name=name)
        self.candidates = candidates
        self.names = _distinct([candidate.name for candidate in candidates])
        self.scope, self.score, self.holdout, self.guard = scope, score, holdout, guard
        self.smoothing, self.margin, self.hold = smoothing, margin, hold
        self.patience, self.soft_reset = patience, soft_reset
        self.period, self.trial, self.first = period, trial, first

    @classmethod
    def sgd(
        cls, learning_rate: Any = 0.1, momenta: Sequence[float] = (0.5, 0.9, 0.99), **settings: Any
    ) -> GreedySwitch:
        """SGD that chooses its momentum (section 3 of the paper, and its settings for SGD).

        Args:
            learning_rate: of all candidates.
            momenta: theirs, from small to large.
            settings: further arguments of the switch. Other than usual, the score is `"filter"`,
                and the first choice the middle one. The authors' is `holdout=False, smoothing=0`,
                which drifts to small momenta where gradients are noisy.

        Raises:
            ValueError: naming the argument that is not allowed.
        """
        return cls._of(
            [keras.optimizers.SGD(1.0, momentum=value, name=f"momentum_{value:g}")
             for value in _decays("momenta", momenta)], learning_rate, settings)

    @classmethod
    def adam(
        cls, learning_rate: Any = 1e-3, betas: Sequence[float] = (0.5, 0.9, 0.99),
        beta_2: float = 0.999, epsilon: float = 1e-7, **settings: Any,
    ) -> GreedySwitch:
        """Adam that chooses its beta 1 (section 3 of the paper); AdamW with `weight_decay`.

        Args:
            learning_rate: of all candidates.
            betas: beta 1 of each, from small to large.
            beta_2, epsilon: of all.
            settings: as in `sgd`; here, `holdout` and `smoothing` are the authors' where not given.

        Raises:
            ValueError: naming the argument that is not allowed.
        """
        return cls._of(
            [keras.optimizers.Adam(
                1.0, beta_1=value, beta_2=beta_2, epsilon=epsilon, name=f"beta_{value:g}")
             for value in _decays("betas", betas)], learning_rate,
            {"holdout": False, "smoothing": 0.0, **settings})

    @classmethod
    def _of(
        cls, candidates: list[keras.optimizers.Optimizer], learning_rate: Any,
        settings: dict[str, Any],
    ) -> GreedySwitch:
        # The rate is the switch's, so that schedules, callbacks and weight decay mean the usual.
        return cls(candidates, learning_rate=learning_rate, **{
            "score": "filter", "first": len(candidates) // 2, **settings})

    # Building.

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the state for these variables.

        Raises:
            ValueError: if TensorFlow distributes the training over several replicas.
        """
        if self.built:
            return
        variables = list(variables)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            if replicas > 1:
                raise ValueError(
                    "`GreedySwitch` trains on one replica under tf.distribute, got a strategy with "
                    f"{replicas}.")
        super().build(variables)
        self._units = 1 if self.scope == "model" else len(variables)
        with backend.outside_of_graph(), backend.replicated():
            self._build_state()
        each: list[list[keras.Variable]] = []
        if self.holdout:
            each = [self.add_optimizer_variables(variables, f"update_{j}")
                    for j in range(len(self.candidates))]
        elif self.guard:
            each = [self.add_optimizer_variables(variables, "motion")]
        # By candidate (without holdout: of the chosen one), then by variable.
        self._updates = each
        self._own = list(self._variables)
        self._momenta: list[list[tuple[int, keras.Variable]]] = []
        for candidate in self.candidates:
            candidate.build(variables)
            for variable in candidate.variables:
                self._track_variable(variable)
            self._momenta.append(_momenta(candidate, variables))

    def _build_state(self) -> None:
        def add(name: str, *shape: int, dtype: str = "int32", start: float = 0) -> keras.Variable:
            return self.add_variable(
                shape, initializer=keras.initializers.Constant(start), dtype=dtype, name=name,
                aggregation="only_first_replica")

        k, u = len(self.candidates), self._units
        self.skipped_steps, self.undone_steps = add("skipped_steps"), add("undone_steps")
        self._choice = add("choice", u, start=self.first)
        self._uses = add("uses", k, u)
        self._tenure = add("tenure", u, start=self.hold)
        self._scores = add("scores", k, u, dtype="float32")
        self._negative = add("negative", k, u)
        self._shortened = add("shortened", k, u, dtype="float32", start=1.0)
        # Whether there is a last motion that may be taken back, and whether the updates of all
        # candidates at the last step are known.
        self._pending, self._known = add("pending"), add("known")
        if self.guard:
            # The learning rate and the shortening in the last motion.
            self._share = add("share", u, dtype="float32")
            self._predicted = add("predicted", u, dtype="float32")
            self._length = add("length", u, dtype="float32")
            self._radius = add("radius", u, dtype="float32")
            self._falls = add("falls", k, u, dtype="float32")
            self._rises = add("rises", k, u, dtype="float32")
            self._failures = add("failures", k, u)
            self._barred = add("barred", k, u)
            self._bound = add("bound", k, u, dtype="float32", start=UNBOUNDED)

    # Stepping.

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable],
        learning_rate: Any,
    ) -> None:
        with backend.no_gradient():
            variables = list(trainable_variables)
            self._step([backend.dense(g, v.shape) for g, v in zip(grads, variables)], variables,
                       ops.cast(learning_rate, "float32"))

    def _step(self, grads: list[Any], variables: list[keras.Variable], rate: Any) -> None:
        places = [self._get_variable_index(variable) for variable in variables]
        finite = ops.all(ops.stack([ops.all(ops.isfinite(g)) for g in grads]))
        good, failed = finite, None
        if self.guard:
            failed = self._watch(grads, places, finite)
            good = ops.logical_and(finite, ops.logical_not(ops.any(failed)))

        def go() -> None:
            self._advance(grads, variables, places, rate)

        def stay() -> None:
            if failed is not None:
                self._take_back(failed, variables, places)

        backend.either(good, go, stay, [*self.variables, *self._trainable_variables])
        self.assign_add(self.skipped_steps, ops.cast(ops.logical_not(finite), "int32"))

    def _watch(self, grads: list[Any], places: list[int], finite: Any) -> Any:
        """(U,) where the last motion has failed, by the gradient at which it has arrived."""
        motion = self._last_motion(places)
        arrived = self._by_unit([_dot(g, m) for g, m in zip(grads, motion)], places)
        predicted = _held(self._predicted)
        pending = ops.greater(self._pending, 0)
        counted = ops.logical_and(ops.logical_and(pending, finite), predicted > 0)
        counted = ops.logical_and(counted, ops.isfinite(arrived))
        counted = ops.logical_and(counted, self._present(places))
        mine = ops.logical_and(self._chosen(), counted)
        # What is known of the others gets old.
        for total, new, old_share in (
            (self._falls, predicted, 1.0), (self._rises, -arrived, FADING),
        ):
            old = _held(total)
            self.assign(total, ops.where(mine, MEMORY * old + new, old_share * old))
        falls, rises = (
            scores_lib.at(_held(self._choice), _held(x)) for x in (self._falls, self._rises))
        failed = scores_lib.has_failed(falls, rises)
        lost = ops.logical_and(pending, ops.logical_not(finite))
        failed = ops.logical_or(ops.logical_and(failed, counted), lost)
        proven = ops.logical_and(pending, ops.logical_not(failed))
        radius = _held(self._radius)
        # Where steps are too long, that length is forgotten, and else it is kept.
        kept = ops.where(rises > SLOPES[-1] * falls, GROWTH[-1], 1.0)
        longest = ops.maximum(kept * radius, _held(self._length))
        self.assign(self._radius, ops.where(proven, longest, radius))
        self._learn_bound(failed, ops.logical_and(mine, ops.logical_not(failed)))
        return failed

    def _learn_bound(self, failed: Any, stood: Any) -> None:
        """Bound the next steps of the chosen candidate by the minimum along the one that `failed`,
        (U,); let the bounds of others rise, and forget the failures of who `stood`, (K, U)."""
        bound, length = _held(self._bound), _held(self._length)
        growth = self._growth()
        aged = bound / FADING
        grown = ops.where(growth < 1, growth * bound, ops.maximum(aged, growth * length))
        shorter = length * scores_lib.share_to_minimum(_held(self._falls), _held(self._rises))
        bound = ops.where(stood, grown, aged)
        bound = ops.where(ops.logical_and(self._chosen(), failed), shorter, bound)
        self.assign(self._bound, ops.minimum(bound, UNBOUNDED))
        failures = _held(self._failures)
        self.assign(self._failures, ops.where(stood, ops.zeros_like(failures), failures))

    def _take_back(self, failed: Any, variables: list[keras.Variable], places: list[int]) -> None:
        """Undo the last motion if it failed anywhere, and bar who made it there. It is added to the
        variables, as they are now: whoever has set them since has not set them in vain."""
        undone = ops.any(failed)
        for variable, motion in zip(variables, self._last_motion(places)):
            value = _held(variable)
            back = _wide(value) + _wide(motion)
            self.assign(variable, ops.where(undone, ops.cast(back, value.dtype), value))
        theirs = ops.logical_and(self._chosen(), failed)
        doublings = ops.minimum(self._failures, MOST_DOUBLINGS)
        doubled = ops.cast(2.0 ** ops.cast(doublings, "float32"), "int32")
        barred = _held(self._barred)
        self.assign(self._barred, ops.where(theirs, self.patience * doubled, barred))
        self.assign_add(self._failures, ops.cast(theirs, "int32"))
        for variable in (self._falls, self._rises):
            value = _held(variable)
            self.assign(variable, ops.where(theirs, ops.zeros_like(value), value))
        # What it was believed for is past: it has to earn its score again.
        scores = _held(self._scores)
        self.assign(self._scores, ops.where(theirs, ops.minimum(scores, 0.0), scores))
        self.assign(self._pending, 0)
        self.assign_add(self.undone_steps, ops.cast(undone, "int32"))

    def _advance(
        self, grads: list[Any], variables: list[keras.Variable], places: list[int], rate: Any
    ) -> None:
        """One step of the candidate that is chosen, or that is from now on."""
        starts = []
        for variable in variables:
            start = _held(variable)
            if self.weight_decay is not None and self._use_weight_decay(variable):
                decay = ops.cast(rate * self.weight_decay, start.dtype)
                start = start - start * decay
            starts.append(start)
        if self.guard:
            barred = _held(self._barred)
            self._put_choice(barred <= 0, None, places)
            self.assign(self._barred, ops.maximum(barred - 1, 0))

        def all_of_them() -> None:
            self._compare(grads, variables, places, starts, rate)

        def alone(j: int) -> Callable[[], None]:
            return lambda: self._follow(j, grads, variables, places, starts, rate)

        if self.period <= self.trial:
            all_of_them()
            return
        count = len(self.candidates)
        judged = self.iterations % self.period < self.trial
        which = ops.where(judged, count, _held(self._choice)[0])
        backend.one_of(
            which, [*(alone(j) for j in range(count)), all_of_them],
            [*self.variables, *self._trainable_variables])

    def _compare(
        self, grads: list[Any], variables: list[keras.Variable], places: list[int],
        starts: list[Any], rate: Any,
    ) -> None:
        """Compute all candidates' steps, choose one, and take it."""
        held = [[_held(updates[k]) for k in places] for updates in self._updates]
        known = ops.greater(self._known, 0)
        factors = self._factors() if self.holdout else None
        moved = [self._try(j, grads, variables, starts) for j in range(len(self.candidates))]
        updates = [
            [_wide(start) - _wide(end) for start, end in zip(starts, ends)] for ends in moved]
        squares = self._of_each([[_dot(u, u) for u in one] for one in updates], places)
        finite = ops.isfinite(squares)
        shortening = self._shortening(squares, rate)
        seen, seen_shortened = updates, shortening
        if self.holdout:
            seen, seen_shortened = held, _held(self._shortened)
            self.assign(self._shortened, shortening)
        products = self._of_each(
            [[_dot(g, u) for g, u in zip(grads, one)] for one in seen], places)
        if self.holdout:
            seen_squares = self._of_each([[_dot(u, u) for u in one] for one in seen], places)
        else:
            seen_squares, factors = squares, self._factors()
            known = ops.ones_like(known)
        if self.score == "power":
            # Of the step that would be taken. Other scores compare directions or filters.
            products = products * seen_shortened
        raw = scores_lib.scores(
            self.score, products, seen_squares,
            self._by_unit([_dot(g, g) for g in grads], places), factors)
        known = ops.logical_and(known, self._present(places))
        old = _held(self._scores)
        smoothed = self.smoothing * old + (1 - self.smoothing) * raw
        self.assign(self._scores, ops.where(known, smoothed, old))
        self._reset_negative(raw, known)
        eligible = finite
        if self.guard:
            eligible = ops.logical_and(finite, _held(self._barred) <= 0)
        self._put_choice(eligible, known, places)
        self.assign(self._known, 1)
        if self.holdout:
            kept = [self._where_finite(finite[j], one, places) for j, one in enumerate(updates)]
            for variables_of, values in zip(self._updates, kept):
                for k, value in zip(places, values):
                    self.assign(variables_of[k], ops.cast(value, variables_of[k].dtype))
        chosen = [self._pick([ends[i] for ends in moved], k) for i, k in enumerate(places)]
        shorter = scores_lib.at(_held(self._choice), shortening)
        self._take(chosen, shorter, grads, variables, places, starts, rate)

    def _follow(
        self, j: int, grads: list[Any], variables: list[keras.Variable], places: list[int],
        starts: list[Any], rate: Any,
    ) -> None:
        """Compute and take the step of candidate j alone."""
        moved = self._try(j, grads, variables, starts)
        updates = [_wide(start) - _wide(end) for start, end in zip(starts, moved)]
        squares = self._by_unit([_dot(u, u) for u in updates], places)
        every = ops.ones((len(self.candidates), 1), "float32")
        shorter = self._shortening(every * squares, rate)[j]
        for other in (one for i, one in enumerate(self.candidates) if i != j):
            # Its schedule, if it has one, goes by the same steps as the others'.
            other._iterations.assign_add(1)
        self.assign(self._known, 0)
        if self.holdout:
            kept = self._where_finite(ops.isfinite(squares), updates, places)
            for k, value in zip(places, kept):
                self.assign(self._updates[j][k], ops.cast(value, self._updates[j][k].dtype))
        self.assign_add(self._tenure, ops.ones((self._units,), "int32"))
        self._take(moved, shorter, grads, variables, places, starts, rate)

    def _try(
        self, j: int, grads: list[Any], variables: list[keras.Variable], starts: list[Any]
    ) -> list[Any]:
        """Where candidate j would go. The variables are there afterwards."""
        for variable, start in zip(variables, starts):
            self.assign(variable, start)
        self.candidates[j].apply(grads, variables)
        return [_held(variable) for variable in variables]

    def _take(
        self, ends: list[Any], shorter: Any, grads: list[Any], variables: list[keras.Variable],
        places: list[int], starts: list[Any], rate: Any,
    ) -> None:
        """Move the variables from the starts to the ends of the chosen candidate's step, or not as
        far: (U,) `shorter` is that share of it."""
        updates = [_wide(start) - _wide(end) for start, end in zip(starts, ends)]
        finite = ops.isfinite(self._by_unit([_dot(u, u) for u in updates], places))
        updates = self._where_finite(finite, updates, places)
        share = rate * shorter
        motion = self._scaled(share, updates, places)
        for i, k in enumerate(places):
            moved = ops.cast(_wide(starts[i]) - motion[i], starts[i].dtype)
            # Whole and at a rate of 1, it ends where the candidate itself would be, to the bit.
            whole = ops.logical_and(share == 1, finite)[self._unit(k)]
            self.assign(variables[i], ops.where(whole, ends[i], moved))
            if self.guard and not self.holdout:
                last = self._updates[0][k]
                self.assign(last, ops.cast(updates[i], last.dtype))
        self.assign_add(self._uses, ops.cast(
            ops.logical_and(self._chosen(), self._present(places)), "int32"))
        if self.guard:
            self.assign(self._predicted, self._by_unit(
                [_dot(g, m) for g, m in zip(grads, motion)], places))
            self.assign(self._length, ops.sqrt(
                self._by_unit([_dot(m, m) for m in motion], places)))
            self.assign(self._share, share)
            self.assign(self._pending, 1)

    # The parts of a step.

    def _last_motion(self, places: list[int]) -> list[Any]:
        """What the last step subtracted from the variables, but for weight decay."""
        chosen = [self._pick([updates[k] for updates in self._updates], k) for k in places]
        return self._scaled(_held(self._share), [_wide(update) for update in chosen], places)

    def _pick(self, values: list[Any], k: int) -> Any:
        """Of the values of each candidate for variable k, that of the chosen one."""
        choice = _held(self._choice)[self._unit(k)]
        picked = ops.convert_to_tensor(values[0])
        for j, value in enumerate(values[1:], 1):
            picked = ops.where(choice == j, ops.convert_to_tensor(value), picked)
        return picked

    def _shortening(self, squares: Any, rate: Any) -> Any:
        """What updates with these squares of their norms, (K, U), are multiplied by: 1, or what
        makes them as long as a step may be."""
        if not self.guard:
            return ops.ones_like(squares)
        lengths = rate * ops.sqrt(squares)
        radius = _held(self._radius)
        # At the first step, the shortest of the candidates' is what may be trusted.
        usual = ops.logical_and(ops.isfinite(lengths), lengths > 0)
        shortest = ops.min(ops.where(usual, lengths, UNBOUNDED), axis=0)
        limit = ops.where(radius > 0, self._growth() * radius, shortest)
        limit = ops.minimum(limit, _held(self._bound))
        return ops.where(ops.logical_and(usual, lengths > limit),
                         limit / ops.maximum(lengths, 1e-30), 1.0)

    def _growth(self) -> Any:
        """(K, U) how many times as long as those that did not fail a candidate's steps may be."""
        falls, rises = _held(self._falls), _held(self._rises)
        growth = GROWTH[-1]
        for slope, factor in reversed(list(zip(SLOPES, GROWTH))):
            growth = ops.where(rises <= slope * falls, factor, growth)
        # Of whom nothing is known, no more than of others.
        return ops.where(falls > 0, growth, 1.0)

    def _scaled(self, factors: Any, values: list[Any], places: list[int]) -> list[Any]:
        """Values of variables, times the (U,) factors of their units."""
        return [value * ops.cast(factors[self._unit(k)], value.dtype)
                for k, value in zip(places, values)]

    def _where_finite(self, finite: Any, values: list[Any], places: list[int]) -> list[Any]:
        return [ops.where(finite[self._unit(k)], value, ops.zeros_like(value))
                for k, value in zip(places, values)]

    def _chosen(self) -> Any:
        """(K, U) whether a candidate is the chosen one."""
        return scores_lib.one_hot(_held(self._choice), len(self.candidates))

    def _unit(self, k: int) -> int:
        """The unit of variable k."""
        return 0 if self.scope == "model" else k

    def _present(self, places: list[int]) -> np.ndarray:
        """(U,) the units that have a gradient at this step."""
        present = np.zeros(self._units, bool)
        present[[self._unit(k) for k in places]] = True
        return present

    def _by_unit(self, numbers: list[Any], places: list[int]) -> Any:
        """(U,) sums of numbers that belong to variables."""
        if self.scope == "model":
            return ops.reshape(ops.sum(ops.stack(numbers)), (1,))
        sums = [ops.zeros((), "float32")] * self._units
        for k, number in zip(places, numbers):
            sums[k] = number
        return ops.stack(sums)

    def _of_each(self, numbers: list[list[Any]], places: list[int]) -> Any:
        """(K, U) such sums for each candidate."""
        return ops.stack([self._by_unit(of_one, places) for of_one in numbers])

    def _factors(self) -> Any:
        """(K, 1) those of the score, of the updates that the candidates have made last."""
        if self.score != "filter":
            return None
        return ops.reshape(ops.stack([
            ops.cast(scores_lib.filter_factor(
                candidate, ops.maximum(candidate._iterations, 1)), "float32")
            for candidate in self.candidates]), (-1, 1))

    def _put_choice(self, eligible: Any, known: Any, places: list[int]) -> None:
        """Choose anew by the scores, which are `known` (U,); None: only where who is chosen is not
        eligible."""
        choice, tenure = _held(self._choice), _held(self._tenure)
        may_change = ops.zeros_like(choice, "bool")
        if known is not None:
            may_change = ops.logical_and(known, tenure >= self.hold)
        scores = _held(self._scores)
        if self.guard and self.score == "power":
            share = scores_lib.share_of_power(_held(self._falls), _held(self._rises))
            scores = ops.where(scores > 0, scores * share, scores)
        new = scores_lib.choose(
            scores, choice, eligible, may_change, self.margin)
        new = ops.where(self._present(places), new, choice)
        self.assign(self._choice, new)
        tenure = ops.where(new == choice, tenure, ops.zeros_like(tenure))
        self.assign(self._tenure, tenure if known is None else tenure + 1)

    def _reset_negative(self, raw: Any, known: Any) -> None:
        """Multiply the momentum of candidates that have gone against the gradient for long."""
        old = _held(self._negative)
        counts = ops.where(raw < 0, old + 1, ops.zeros_like(old))
        counts = ops.where(known, counts, old)
        self.assign(self._negative, counts)
        due = ops.logical_and(known, counts >= self.patience)
        for j, buffers in enumerate(self._momenta):
            for k, buffer in buffers:
                value = _held(buffer)
                factor = ops.where(due[j, self._unit(k)], self.soft_reset, 1.0)
                self.assign(buffer, value * ops.cast(factor, value.dtype))

    # What it does, to be read.

    def choices(self) -> list[str]:
        """The name of the candidate that is chosen: one for the model, or one for each variable."""
        return [self.names[j] for j in ops.convert_to_numpy(self._choice).tolist()]

    def uses(self) -> np.ndarray:
        """(K,) or, by tensor, (K, number of variables): steps that each candidate has made."""
        uses = ops.convert_to_numpy(self._uses)
        return uses[:, 0] if self.scope == "model" else uses

    def scores(self) -> np.ndarray:
        """(K,) or, by tensor, (K, number of variables): smoothed scores of the candidates."""
        found = ops.convert_to_numpy(self._scores)
        return found[:, 0] if self.scope == "model" else found

    # Saving. The candidates, as attributes, save their own.

    def save_own_variables(self, store: Any) -> None:
        for i, variable in enumerate(self._own if self.built else self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Set the state of the switch itself.

        Raises:
            ValueError: if the state is of other arguments or another model.
        """
        own = self._own if self.built else self._variables
        if len(store.keys()) != len(own):
            raise ValueError(
                f"`store` must hold the {len(own)} variables of this switch, got "
                f"{len(store.keys())}: it is of other arguments or of another model.")
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "candidates": [
                keras.optimizers.serialize(candidate) for candidate in self.candidates],
            **{name: getattr(self, name) for name in (
                "scope", "score", "holdout", "smoothing", "margin", "hold", "patience",
                "soft_reset", "guard", "period", "trial", "first")},
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> GreedySwitch:
        config = dict(config)
        config["candidates"] = [
            keras.optimizers.deserialize(one, custom_objects=custom_objects)
            for one in config["candidates"]]
        return super().from_config(config, custom_objects)


def _checked(candidates: Any) -> list[keras.optimizers.Optimizer]:
    """The candidates, if they are allowed."""
    if not isinstance(candidates, (list, tuple)) or len(candidates) < 2:
        count = f"{len(candidates)} of them" if isinstance(candidates, (list, tuple)) else (
            type(candidates).__name__)
        raise ValueError(f"`candidates` must be a list of at least 2 optimizers, got {count}.")
    for one in candidates:
        kind = type(one).__name__
        composed = isinstance(one, GreedySwitch) or any(
            hasattr(one, inner) for inner in ("inner_optimizer", "optimizers"))
        if not isinstance(one, keras.optimizers.Optimizer) or composed:
            raise ValueError(
                f"`candidates` must be Keras optimizers, and none that holds others, got {kind}.")
        if one.built:
            raise ValueError(f"`candidates` must not be built yet, got a {kind} that is.")
        for argument in ("use_ema", "gradient_accumulation_steps", "loss_scale_factor"):
            if getattr(one, argument):
                raise ValueError(
                    f"`candidates` must leave `{argument}` to the switch, got "
                    f"{getattr(one, argument)!r} for a {kind}.")
        if getattr(one, "attends", False):
            raise ValueError(
                "`candidates` must move the parameters that the model holds, got a "
                f"{kind} with lookahead: give it lookahead=False.")
    if len({id(one) for one in candidates}) < len(candidates):
        raise ValueError("`candidates` must be different objects, got one of them twice.")
    return list(candidates)


def _decays(argument: str, values: Sequence[float]) -> list[float]:
    if not isinstance(values, (list, tuple)) or len(values) < 2 or not all(
            is_number(value) and 0 <= value < 1 for value in values):
        raise ValueError(
            f"`{argument}` must be at least 2 numbers from 0 to below 1, got {values!r}.")
    return [float(value) for value in values]


def _distinct(names: list[str]) -> list[str]:
    """The names, with their number in front where two are alike."""
    return [f"{j} {name}" if names.count(name) > 1 else name for j, name in enumerate(names)]


def _momenta(
    candidate: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> list[tuple[int, keras.Variable]]:
    """The buffers that a candidate calls its momentum, as Keras's optimizers do, each with the
    number of the variable that it is of."""
    places: dict[str, list[int]] = {}
    for k, variable in enumerate(variables):
        path = getattr(variable, "path", variable.name).replace("/", "_")
        places.setdefault(f"{path}_momentum", []).append(k)
    return [(places[buffer.name].pop(0), buffer) for buffer in candidate.variables
            if places.get(buffer.name)]


def _wide(x: Any) -> Any:
    """The tensor as float32, or float64 if it is that."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _held(variable: keras.Variable) -> Any:
    """The variable's value now: what PyTorch and TensorFlow give changes with the variable."""
    value = ops.convert_to_tensor(variable)
    return value if keras.backend.backend() == "jax" else ops.copy(value)


def _dot(a: Any, b: Any) -> Any:
    """() the sum of products, in float32."""
    return ops.cast(ops.sum(_wide(a) * _wide(b)), "float32")
