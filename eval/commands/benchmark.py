"""`python -m eval benchmark WHAT`: what things cost, as figures of one run.

    benchmark meta    throughput of meta-training, in parameter-steps a second: the meta-gradient by
                      truncated backpropagation, PES (the steps of one of each antithetic pair are
                      counted), the gradient of whole runs, and unrolling alone; warm, median of
                      several runs
    benchmark step    the step of a learned optimizer of any kind by itself and that of Adam, which
                      take turns: throughput, memory, first call
    benchmark train   a whole training step with a learned optimizer relative to one with Adam,
                      RMSProp and SGD, which take turns; median of several rounds; memory
    benchmark switch  a whole training step with a GreedySwitch of Adam, RMSProp and SGD, relative
                      to one with the dearest of them, which take turns
    benchmark logging a training step with LearningRateDynamics relative to one without
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from eval.benchmark import meta_training, train_step
from eval.commands import cli

if TYPE_CHECKING:
    from hrnn_opt import Pretrained

OPTIONS = flags.FlagValues()
flags.DEFINE_integer("unroll", 100, "Inner steps in a truncation.", flag_values=OPTIONS)
flags.DEFINE_integer("repeats", 5, "Timed runs, of which the median counts.", flag_values=OPTIONS)
flags.DEFINE_integer(
    "objective_every", 1, "Evaluate the meta-objective at every so-many-th inner step.",
    flag_values=OPTIONS)
flags.DEFINE_enum("model", "mnist_conv", train_step.MODELS, "Of `train` and `switch`.",
                  flag_values=OPTIONS)
flags.DEFINE_string("network", "mlp_relu", "Of `logging`: a network of `python -m eval mnist`.",
                    flag_values=OPTIONS)
flags.DEFINE_integer("every", 100, "Of `logging`: batches from one record to the next.",
                     lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("batch_size", 64, "Of `train` and `switch`.", lower_bound=1,
                     flag_values=OPTIONS)
flags.DEFINE_enum("backend", None, ["jax", "tensorflow", "torch"],
                  "Of `step` and `logging`; that of KERAS_BACKEND if not given.",
                  flag_values=OPTIONS)
flags.DEFINE_integer("parameters", 1_000_000, "Of `step`.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("tensors", 1, "Of `step`: how many the parameters lie in, of sizes over three "
                     "decades.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_enum("shapes_of", None, train_step.MODELS,
                  "Of `step`: the tensors of this model, in place of vectors of --parameters.",
                  flag_values=OPTIONS)
flags.DEFINE_string("weights", "default", "Of `step` and `train`: what LearnedOpt takes; of `step` "
                    "also a kind of networks, with its start values.", flag_values=OPTIONS)
flags.DEFINE_string("form", "hrnn", "Of `meta`: what is meta-trained, a kind of networks or the "
                    "network of weights.", flag_values=OPTIONS)
flags.DEFINE_enum("state_dtype", "float32", ["float32", "bfloat16"], "Of `step`.",
                  flag_values=OPTIONS)
flags.DEFINE_bool("jit_compile", False, "Of `step`: that of HierarchicalLOpt, on PyTorch.",
                  flag_values=OPTIONS)
cli.define_json(OPTIONS)

def main(argv: list[str]) -> int:
    """The command line."""
    whats = {"meta": _main_meta, "step": _main_step, "train": _main_train,
             "switch": _main_switch, "logging": _main_logging}
    if len(argv) != 2 or argv[1] not in whats:
        raise cli.UsageError(
            f"benchmark takes one of: {', '.join(whats)}; got {' '.join(argv[1:]) or 'nothing'}")
    if OPTIONS.backend:
        os.environ["KERAS_BACKEND"] = OPTIONS.backend
    return whats[argv[1]]()


def _form(name: str) -> Pretrained:
    """The weights of this name, or start values of a kind of networks."""
    from hrnn_opt import Pretrained
    from hrnn_opt.registry import config_from_dict, kinds, network_of

    if name in kinds():
        return Pretrained.from_network(network_of(config_from_dict({"kind": name})))
    return cli.check_weights(name)


def _main_logging() -> int:
    from eval.benchmark import logging_cost
    from eval.runs import networks

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

    from eval.benchmark import step_cost
    from hrnn_opt import LearnedOpt

    weights = _form(OPTIONS.weights)
    if OPTIONS.shapes_of:
        model = train_step.build_model(OPTIONS.shapes_of)
        shapes = [tuple(variable.shape) for variable in model.trainable_variables]
    else:
        try:
            shapes = step_cost.spread_shapes(OPTIONS.parameters, OPTIONS.tensors)
        except ValueError as error:
            raise cli.UsageError(str(error)) from None
    costs = step_cost.measure({
        "ours": lambda: LearnedOpt(
            weights, state_dtype=OPTIONS.state_dtype, jit_compile=OPTIONS.jit_compile, seed=0,
            num_steps=1000),
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
    report = train_step.measure(
        OPTIONS.model, OPTIONS.batch_size, OPTIONS.repeats, cli.check_weights(OPTIONS.weights))
    if OPTIONS.json:
        cli.print_json(report)
        return 0
    for name, seconds in report["step_seconds"].items():
        relative = report["relative"].get(name)
        print(f"{name:>19} {1e3 * seconds:10.2f} ms, first call "
              f"{report['first_call_seconds'][name]:.0f} s, "
              f"{report['peak_bytes'][name] / 1e6:.0f} MB"
              + (f"  the learned one takes {relative:.2f} times as long" if relative else ""))
    return 0


def _main_switch() -> int:
    cli.need_jax()
    report = train_step.measure_switch(OPTIONS.model, OPTIONS.batch_size, OPTIONS.repeats)
    if OPTIONS.json:
        cli.print_json(report)
        return 0
    for name, seconds in report["step_seconds"].items():
        print(f"{name:>14} {1e3 * seconds:10.2f} ms, first call "
              f"{report['first_call_seconds'][name]:.0f} s")
    relative = report["relative"]
    print(f"relative to {report['dearest']}: {relative['switch']:.2f} times where all candidates "
          f"are computed, {relative['switch, alone']:.2f} times where the chosen one alone is, "
          f"{report['period_mean']:.2f} times with period=200 and trial=20")
    return 0


def _main_meta() -> int:
    from train.machine import use_every_core, use_large_pages

    use_large_pages("eval")
    use_every_core(math.gcd(*(members for members, _ in meta_training.TASKS.values())))
    form = _form(OPTIONS.form)
    report = {}
    for case in meta_training.TASKS:
        report[case] = meta_training.throughput(
            case, form.network(), OPTIONS.unroll, OPTIONS.repeats, OPTIONS.objective_every)
        print(f"{case}: " + ", ".join(f"{k} {v:.4g}" for k, v in report[case].items()),
              file=sys.stderr)
    if OPTIONS.json:
        print(json.dumps(report))
    return 0
