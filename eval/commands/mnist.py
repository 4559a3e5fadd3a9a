"""Train one network on MNIST with one optimizer: the curve, the final loss, the test accuracy.

The training loss is the softmax cross entropy over the whole training set. `sgd` has momentum 0.9.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags

from eval.commands import cli
from eval.runs import networks, optimizers
from eval.runs.run import Run
from eval.runs.store import write_json
from train import progress

OPTIONS = flags.FlagValues()
flags.DEFINE_enum("network", None, list(networks.NETWORKS), "The network.",
                  required=True, flag_values=OPTIONS)
flags.DEFINE_enum("optimizer", "hrnn", optimizers.OPTIMIZERS, "The optimizer.",
                  flag_values=OPTIONS)
flags.DEFINE_string("weights", None, "Of hrnn: a name, or the path of a weights file.",
                    flag_values=OPTIONS)
flags.DEFINE_float("learning_rate", None, "Not given: the optimizer's own.", lower_bound=0,
                   flag_values=OPTIONS)
flags.DEFINE_float("initial_learning_rate", None, "Of hrnn.", lower_bound=0, flag_values=OPTIONS)
flags.DEFINE_enum("state_dtype", None, ["float32", "bfloat16"], "Of hrnn.", flag_values=OPTIONS)
flags.DEFINE_enum("schedule", "constant", optimizers.SCHEDULES,
                  "cosine: --learning_rate decays to 0 over --steps.",
                  flag_values=OPTIONS)
flags.DEFINE_integer("steps", 10000, "Training steps.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("batch_size", 64, "Examples a step.", lower_bound=1, flag_values=OPTIONS)
flags.DEFINE_integer("seed", 0, "Draws the start values and the minibatches.", lower_bound=0,
                     flag_values=OPTIONS)
flags.DEFINE_string("out", None, "File for the result as JSON.", flag_values=OPTIONS)
cli.define_data_dir(OPTIONS)
cli.define_json(OPTIONS)


def main(argv: list[str]) -> None:
    """The command line."""
    cli.no_arguments(argv)
    if OPTIONS.optimizer != optimizers.LEARNED:
        for flag in optimizers.LEARNED_SETTINGS:
            if OPTIONS[flag].value is not None:
                raise cli.UsageError(f"--{flag} is for --optimizer {optimizers.LEARNED}")
    if OPTIONS.optimizer in optimizers.JAX_ONLY:
        cli.need_jax()
    if OPTIONS.schedule == "cosine" and OPTIONS.learning_rate is None:
        raise cli.UsageError("--schedule cosine needs --learning_rate to decay from")
    run = Run(**{field.name: OPTIONS[field.name].value for field in dataclasses.fields(Run)
                 if field.name in OPTIONS})
    if run.optimizer == optimizers.LEARNED:
        cli.check_weights(run.weights)
    data = cli.load_data(OPTIONS)
    if run.batch_size > len(data.y_train):
        raise cli.UsageError(f"--batch_size must be at most {len(data.y_train)}, the training set")
    with progress.bar(total=run.steps, desc=run.title, unit="step") as bar:
        result = run.execute(data, on_progress=lambda done: bar.update(done - bar.n))
    if OPTIONS.out:
        write_json(Path(OPTIONS.out), result)
    if OPTIONS.json:
        cli.print_json(result)
        return
    for step, loss in result["curve"]:
        print(f"{step:>8,}  {loss:.6f}")
    if result["diverged"]:
        print("diverged")
    else:
        print(f"training loss {result['final_training_loss']:.6f}, "
              f"test accuracy {result['test_accuracy']:.4f}, {result['seconds']:.1f} s")
