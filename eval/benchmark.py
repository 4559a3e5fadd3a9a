"""`python -m eval benchmark WHAT`: what things cost, as figures of one run.

    benchmark meta    throughput of meta-training, in parameter-steps a second: the meta-gradient by
                      truncated backpropagation, PES (the steps of one of each antithetic pair are
                      counted), and unrolling alone; warm, median of several runs
    benchmark step    the step of HierarchicalLOpt by itself and that of Adam, which take turns:
                      throughput, memory, first call
    benchmark train   a whole training step with HierarchicalLOpt relative to one with Adam, RMSProp
                      and SGD, which take turns; median of several rounds
    benchmark logging a training step with LearningRateDynamics relative to one without
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from eval import cli

MODELS = ["mnist_conv", "resnet50v2"]

OPTIONS = flags.FlagValues()
flags.DEFINE_integer("unroll", 100, "Inner steps in a truncation.", flag_values=OPTIONS)
flags.DEFINE_integer("repeats", 5, "Timed runs, of which the median counts.", flag_values=OPTIONS)
flags.DEFINE_integer(
    "objective_every", 1, "Evaluate the meta-objective at every so-many-th inner step.",
    flag_values=OPTIONS)
flags.DEFINE_enum("model", "mnist_conv", MODELS, "Of `train`.", flag_values=OPTIONS)
flags.DEFINE_string("network", "mlp_relu", "Of `logging`: a network of `python -m eval mnist`.",
                    flag_values=OPTIONS)
flags.DEFINE_integer("every", 100, "Of `logging`: batches from one record to the next.",
                     lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("batch_size", 64, "Of `train`.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_enum("backend", None, ["jax", "tensorflow", "torch"],
                  "Of `step` and `logging`; that of KERAS_BACKEND if not given.",
                  flag_values=OPTIONS)
flags.DEFINE_integer("parameters", 1_000_000, "Of `step`.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("tensors", 1, "Of `step`: how many the parameters lie in, of sizes over three "
                     "decades.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_enum("shapes_of", None, MODELS,
                  "Of `step`: the tensors of this model, in place of vectors of --parameters.",
                  flag_values=OPTIONS)
flags.DEFINE_string("weights", "default", "Of `step`: of HierarchicalLOpt.", flag_values=OPTIONS)
flags.DEFINE_enum("state_dtype", "float32", ["float32", "bfloat16"], "Of `step`.",
                  flag_values=OPTIONS)
flags.DEFINE_bool("jit_compile", False, "Of `step`: that of HierarchicalLOpt, on PyTorch.",
                  flag_values=OPTIONS)
cli.define_json(OPTIONS)

# Tasks side by side in each case, as members x models. Odd numbers of models keep features off the
# same lines of the cache.
TASKS = {"quadratic_20": (4, 127), "mlp_8_32_64": (12, 3)}


def _problem(case: str) -> Any:
    import problems
    from problems.datasets import RandomMLP

    if case == "quadratic_20":
        return problems.Quadratic(20)
    return problems.FullyConnected(8, 2, (32, 64), data=RandomMLP(), samples=1000, batch_size=16)


def _seconds(function: Callable[[], Any], repeats: int) -> float:
    import jax

    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def meta_throughput(case: str, unroll: int, repeats: int, objective_every: int) -> dict[str, float]:
    """Throughput of one case.

    Returns:
        `parameter_steps_per_second` with the truncated meta-gradient, `pes` and `forward_only`
        likewise, and `compile_seconds` of the first.
    """
    import jax

    from hrnn_opt.network import HierarchicalRNN
    from train import estimators
    from train.config import TrainConfig
    from train.devices import Devices
    from train.tasks import Family

    members, models = TASKS[case]
    network = HierarchicalRNN()
    start = {name: variable.value for name, variable in network.meta_parameters.items()}
    result = {}
    for name, key in (("tbptt", "parameter_steps_per_second"), ("pes", "pes")):
        config = TrainConfig(
            members=members, models=models, unroll=unroll, objective_every=objective_every,
            estimator=name, run_length="log_uniform", run_range=(100 * unroll, 100 * unroll))
        family = Family([_problem(case)], network, config)
        steps = members * models * unroll * family.layout.parameters
        devices = Devices(config)
        estimator = estimators.make(family, config, devices.members)
        meta = devices.replicate(start)
        state = estimator.init(jax.random.key(0), meta)
        started = time.perf_counter()
        estimator.compile(meta)
        if name == "tbptt":
            result["compile_seconds"] = time.perf_counter() - started

        def truncation(estimator=estimator, meta=meta) -> Any:
            nonlocal state
            estimate, state = estimator.estimate(meta, state, jax.random.key(1), 1)
            return estimate

        jax.block_until_ready(truncation())
        result[key] = steps / _seconds(truncation, repeats)
        if name == "tbptt":
            copies = jax.device_put(estimators.for_members(start, members), devices.members)
            forward = jax.jit(jax.vmap(
                lambda meta, tasks: family.unroll(meta, tasks, unroll)))  # noqa: B023
            jax.block_until_ready(forward(copies, state))
            result["forward_only"] = steps / _seconds(
                lambda: forward(copies, state), repeats)  # noqa: B023
    return result


def _model(name: str) -> Any:
    import keras

    from eval import networks

    if name == "mnist_conv":
        return networks.build("conv_relu")
    return keras.applications.ResNet50V2(
        weights=None, input_shape=(224, 224, 3), classes=1000, classifier_activation=None)


def train_steps(model: str, batch_size: int, repeats: int) -> dict[str, Any]:
    """Seconds of a whole training step with each optimizer, all in this process, taking turns.

    Args:
        model: `mnist_conv`, or `resnet50v2` for images of 224 x 224.
        batch_size: random images a step.
        repeats: rounds.

    Returns:
        `step_seconds`, medians by optimizer; `relative`, HierarchicalLOpt's over each other's: the
        median over the rounds; and `first_call_seconds`, with building and compiling.
    """
    import jax
    import numpy as np

    from eval import jax_session, optimizers

    shape, classes = ((28, 28, 1), 10) if model == "mnist_conv" else ((224, 224, 3), 1000)
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.random((batch_size, *shape), "float32"))
    y = jax.numpy.asarray(rng.integers(classes, size=batch_size).astype("int32"))
    # Every step sees the same images.
    order = jax.numpy.broadcast_to(
        jax.numpy.arange(batch_size), (repeats + 1, batch_size))
    names = (optimizers.LEARNED, *optimizers.BASELINES)
    steps, states, first = {}, {}, {}
    for name in names:
        started = time.perf_counter()
        network, optimizer = _model(model), optimizers.build(
            name, learning_rate=None, schedule="constant", steps=1)
        optimizer.build(network.trainable_variables)
        steps[name] = jax_session.compile_step(network, optimizer)
        states[name] = jax.block_until_ready(
            steps[name](jax_session.initial_state(network, optimizer), x, y, order))
        first[name] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            started = time.perf_counter()
            states[name] = jax.block_until_ready(steps[name](states[name], x, y, order))
            seconds[name].append(time.perf_counter() - started)
    return {
        "step_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "relative": {
            name: statistics.median(
                ours / theirs for ours, theirs in zip(seconds[optimizers.LEARNED], seconds[name]))
            for name in optimizers.BASELINES},
        "first_call_seconds": first,
    }


def main(argv: list[str]) -> int:
    """The command line."""
    whats = {"meta": _main_meta, "step": _main_step, "train": _main_train,
             "logging": _main_logging}
    if len(argv) != 2 or argv[1] not in whats:
        raise cli.UsageError(
            f"benchmark takes one of: {', '.join(whats)}; got {' '.join(argv[1:]) or 'nothing'}")
    if OPTIONS.backend:
        os.environ["KERAS_BACKEND"] = OPTIONS.backend
    return whats[argv[1]]()


def _main_logging() -> int:
    from eval import logging_cost, networks

    if OPTIONS.network not in networks.NETWORKS:
        raise cli.UsageError(
            f"--network must be one of {', '.join(networks.NETWORKS)}, got {OPTIONS.network!r}")
    report = logging_cost.measure(OPTIONS.network, OPTIONS.repeats, OPTIONS.every)
    if OPTIONS.json:
        cli.print_json(report)
        return 0
    print(f"a step takes {1e3 * report['step_seconds']:.2f} ms, and with records at every "
          f"{OPTIONS.every} {report['ratio']:.3f} times that by the clock, "
          f"{report['cpu_ratio']:.3f} times in processor time")
    return 0


def _main_step() -> int:
    import keras

    from eval import step_cost
    from hrnn_opt import HierarchicalLOpt

    cli.check_weights(OPTIONS.weights)
    if OPTIONS.shapes_of:
        shapes = [tuple(v.shape) for v in _model(OPTIONS.shapes_of).trainable_variables]
    else:
        try:
            shapes = step_cost.spread_shapes(OPTIONS.parameters, OPTIONS.tensors)
        except ValueError as error:
            raise cli.UsageError(str(error)) from None
    costs = step_cost.measure({
        "ours": lambda: HierarchicalLOpt(
            OPTIONS.weights, state_dtype=OPTIONS.state_dtype, jit_compile=OPTIONS.jit_compile,
            seed=0),
        "adam": lambda: keras.optimizers.Adam(1e-3),
    }, shapes, OPTIONS.repeats)
    rate, adam_rate = (
        costs[name]["million_parameters_per_second"] for name in ("ours", "adam"))
    report = {
        "million_parameters_per_second": rate, "adam_million_parameters_per_second": adam_rate,
        "ratio": rate / adam_rate, **{name: costs["ours"][name] for name in (
            "state_bytes_per_parameter", "peak_bytes_per_parameter", "first_call_seconds")}}
    if OPTIONS.json:
        cli.print_json(report)
        return 0
    for name, value in report.items():
        print(f"{value:12.4g}  {name.replace('_', ' ')}")
    return 0


def _main_train() -> int:
    cli.need_jax()
    report = train_steps(OPTIONS.model, OPTIONS.batch_size, OPTIONS.repeats)
    if OPTIONS.json:
        cli.print_json(report)
        return 0
    for name, seconds in report["step_seconds"].items():
        relative = report["relative"].get(name)
        print(f"{name:>8} {1e3 * seconds:10.2f} ms, first call "
              f"{report['first_call_seconds'][name]:.0f} s"
              + (f"  HierarchicalLOpt takes {relative:.2f} times as long" if relative else ""))
    return 0


def _main_meta() -> int:
    from train.machine import use_every_core, use_large_pages

    use_large_pages("eval")
    use_every_core(math.gcd(*(members for members, _ in TASKS.values())))
    report = {}
    for case in TASKS:
        report[case] = meta_throughput(
            case, OPTIONS.unroll, OPTIONS.repeats, OPTIONS.objective_every)
        print(f"{case}: " + ", ".join(f"{k} {v:.4g}" for k, v in report[case].items()),
              file=sys.stderr)
    if OPTIONS.json:
        print(json.dumps(report))
    return 0
