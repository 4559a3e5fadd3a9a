"""`python -m problems list [SUITE]`, `show SPEC` and `build_small_real`: see `--help`."""

import json
import logging
import math
import sys
from collections.abc import Sequence

from absl import app, flags

import problems
from problems.problem import Problem

_JSON = flags.DEFINE_bool("json", False, "list: print JSON alone.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "The file to write: show a PNG, build_small_real an .npz.")
_STEPS = flags.DEFINE_integer("steps", 300, "show: length of the optimizers' paths.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "show: seed of instance, start and gradient noise.")

USAGE = """What is optimized in meta-training.

  python -m problems list            the suites, with their numbers of specs and programs
  python -m problems list SUITE      the specs of one suite; an equal group is one program
  python -m problems show SPEC       draw a 2-D problem and the paths of four optimizers to a PNG
  python -m problems build_small_real BROTLI
                                     write the data of the suite `small_real` anew:
                                     see problems/data/README.md

SPEC is written as `list` prints it: python -m problems show "Bowl(5.0, angle=0.785)" """


def _describe(specs: Sequence[Problem]) -> list[dict]:
    groups: dict = {}
    return [
        {
            "spec": repr(spec),
            "tensors": [list(shape) for shape in spec.shapes],
            "parameters": sum(math.prod(shape) for shape in spec.shapes),
            "program": groups.setdefault(spec.program, len(groups)),
            "fields": problems.to_json(spec),
        }
        for spec in specs
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Lines with all columns but the last flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for *cells, last in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=False)]
        lines.append("  ".join([*padded, last]))
    return "\n".join(lines)


def _list(names: Sequence[str]) -> None:
    if names:
        rows = _describe(problems.suite(names[0]))
        if _JSON.value:
            print(json.dumps(rows, indent=2))
            return
        table = [["group", "tensors", "parameters", "spec"]]
        for row in rows:
            sizes = row["program"], len(row["tensors"]), row["parameters"]
            table.append([*map(str, sizes), row["spec"]])
        print(_table(table))
        print(f"{len(rows)} specs, {len({row['program'] for row in rows})} programs")
        return
    suites = {name: problems.suite(name) for name in problems.suite_names()}
    counts = [
        {"suite": name, "specs": len(specs), "programs": len({s.program for s in specs})}
        for name, specs in suites.items()
    ]
    if _JSON.value:
        print(json.dumps(counts, indent=2))
        return
    table = [["specs", "programs", "suite"]]
    table += [[str(row["specs"]), str(row["programs"]), row["suite"]] for row in counts]
    print(_table(table))


def main(argv: Sequence[str]) -> None:
    # absl shows every library's remarks; jax's are about devices that a machine does not have.
    logging.getLogger("jax").setLevel(logging.WARNING)
    command, *arguments = argv[1:] or [""]
    try:
        if command == "list" and len(arguments) <= 1:
            _list(arguments)
        elif command == "show" and len(arguments) == 1:
            spec = problems.parse(arguments[0])
            if not isinstance(spec, Problem):
                raise ValueError(f"show: {spec} is no problem.")
            # Matplotlib takes a second to import: only where a picture is asked for.
            from problems import picture

            output = _OUTPUT.value or "problem.png"
            picture.draw(spec, output, steps=_STEPS.value, seed=_SEED.value)
            print(f"wrote {output}", file=sys.stderr)
        elif command == "build_small_real" and len(arguments) == 1:
            # Keras is behind it.
            from problems import build_small_real, real_data

            output = _OUTPUT.value or str(real_data.FILE)
            size = build_small_real.build(arguments[0], output)
            print(f"wrote {output}, {size} bytes", file=sys.stderr)
        else:
            raise app.UsageError(
                "expected `list [SUITE]`, `show SPEC` or `build_small_real BROTLI`.")
    except ValueError as error:
        print(f"problems: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    sys.modules["__main__"].__doc__ = USAGE
    app.run(main)
