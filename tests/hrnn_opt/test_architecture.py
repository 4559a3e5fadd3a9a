"""Which module of `hrnn_opt` may import which: the arrows between its rooms run one way.

Read from the sources, imports inside functions too. An arrow goes to the module that is named, and
not to the folder around it.
"""

import ast
import functools
import graphlib
import importlib.util
import re
from pathlib import Path

import pytest

from hrnn_opt.registry import kinds, rules

ROOT = Path(__file__).parents[2]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
           for path in (ROOT / "hrnn_opt").rglob("*.py")}
# What a room may import beside itself. The package's own `__init__` imports all.
JOINT = {"checks", "iterates", "places", "interface"}
ALLOWED = {
    "checks": set(),
    "iterates": set(),
    "places": set(),
    "interface": JOINT - {"interface"},
    "registry": JOINT,
    "networks": JOINT | {"registry"},
    "rules": JOINT | {"registry"},
    "files": JOINT | {"registry"},
    "training": JOINT | {"registry", "files"},
    "switch": JOINT | {"training"},
}
# The originals' own files are of one network.
EXCEPTIONS = {
    ("hrnn_opt.files.foreign", "hrnn_opt.networks.hrnn.released"),
    ("hrnn_opt.files.foreign", "hrnn_opt.networks.released")}


def imported(path: Path, name: str) -> set[str]:
    """All modules that a module imports, by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            source = importlib.util.resolve_name(
                "." * node.level + (node.module or ""), package) if node.level else node.module
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                found.add(whole if whole in MODULES else source)
    return found


@functools.cache
def arrows() -> dict[str, set[str]]:
    return {name: imported(path, name) for name, path in MODULES.items()}


def room(module: str) -> str:
    """The folder or file of `hrnn_opt` that a module is in; "" for the package's own."""
    return module.removeprefix("hrnn_opt").lstrip(".").partition(".")[0]


def test_imports_are_found():
    assert "hrnn_opt.places.layout" in arrows()["hrnn_opt.interface"]
    # Of a name, of a module by its name, and inside a function.
    assert "hrnn_opt.networks.accumulators" in arrows()["hrnn_opt.networks.direction"]
    assert "hrnn_opt.iterates" in arrows()["hrnn_opt.rules.averaging"]
    assert "hrnn_opt.training.events" in arrows()["hrnn_opt.training.callbacks"]
    assert "tensorflow" in arrows()["hrnn_opt.places.backend"]


def test_no_module_imports_one_that_imports_it():
    graphlib.TopologicalSorter(
        {name: others & set(MODULES) for name, others in arrows().items()}).prepare()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_those_below_it(module):
    for other in arrows()[module] & set(MODULES):
        if room(module) and (module, other) not in EXCEPTIONS:
            assert room(other) in ALLOWED[room(module)] | {room(module)}, f"imports {other}"


def test_nothing_imports_what_is_not_in_the_wheel():
    for module, others in arrows().items():
        tops = {other.partition(".")[0] for other in others}
        assert not tops & {"train", "eval", "problems", "tests", "lab"}, module


@pytest.mark.parametrize("place", ["training", "files", "places"])
def test_no_single_network_is_named(place):
    """Not by its class, its kind, or a rule's; a default kind is the registry's to say."""
    classes = [cls.__name__ for known in (kinds(), rules()) for cls in known.values()]
    names = {rf"\b{cls}\b" for cls in classes} | {rf"[\"']{kind}[\"']" for kind in kinds()}
    for module, path in MODULES.items():
        # Format 1 had one network, and rules among its switches.
        if room(module) != place or module in ("hrnn_opt.files.foreign", "hrnn_opt.files.format_1"):
            continue
        code = without_docstrings(path.read_text())
        found = [name for name in names if re.search(name, code)]
        assert not found, f"{module} names {found}"


def without_docstrings(source: str) -> str:
    """The code, with neither comments nor docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and ast.get_docstring(node, clean=False) is not None):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
