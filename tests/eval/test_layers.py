"""Which module of `eval` may import which."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in (ROOT / "eval").rglob("*.py")}
# What a folder may import beside itself; `commands` and `eval.__main__` may import all.
BELOW = {"runs": set(), "conformance": set(), "benchmark": {"runs"},
         "imagenet": {"runs"}, "figures": {"runs", "benchmark"}}


def imported(path: Path) -> set[str]:
    """The modules of `eval` that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found & set(MODULES)


def test_no_module_imports_one_that_imports_it():
    graphlib.TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).prepare()


def test_a_folder_imports_only_those_below_it():
    for name, path in MODULES.items():
        folder = name.split(".")[1] if name.count(".") > 1 else None
        for other in imported(path):
            if folder in BELOW:
                assert other.split(".")[1] in BELOW[folder] | {folder}, f"{name} imports {other}"
