"""Specs by name: how a problem prints, is read back, and goes to and from JSON.

A new problem is one file with a class under `@register`, and the line that imports that file.
"""

import ast
import dataclasses
from typing import Any, TypeVar

SpecClass = TypeVar("SpecClass", bound=type)

_classes: dict[str, type] = {}


def register(cls: SpecClass) -> SpecClass:
    """Class decorator: makes a spec known to `parse` and `from_json` under its class name.

    Raises:
      ValueError: another class has that name already.
    """
    known = _classes.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise ValueError(f"register: the name {cls.__name__} is taken by {known.__module__}.")
    _classes[cls.__name__] = cls
    return cls


def registered() -> dict[str, type]:
    """All registered spec classes (problems and data sets) by name."""
    return dict(_classes)


def _build(name: Any, arguments: list, keywords: dict) -> Any:
    if name not in _classes:
        raise ValueError(
            f"spec: unknown problem or data set {name!r}; known are {', '.join(sorted(_classes))}."
        )
    try:
        return _classes[name](*arguments, **keywords)
    except TypeError as error:
        detail = str(error).replace(f"{name}.__init__()", "").strip()
        raise ValueError(f"spec: {name} cannot be built: {detail}.") from error


def parse(text: str) -> Any:
    """Reads a spec as it prints: `parse("Quadratic(20, noise_stdev=0.5)")`.

    Only names of registered classes and literal values are understood; nothing is evaluated.

    Raises:
      ValueError: the text is no spec, names an unknown class, or has arguments it rejects.
    """

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if any(k.arg is None for k in node.keywords):
                raise ValueError(f"spec: '**' is not allowed; got {text!r}.")
            keywords = {k.arg: value(k.value) for k in node.keywords}
            return _build(node.func.id, [value(a) for a in node.args], keywords)
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(value(e) for e in node.elts)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"spec: {ast.unparse(node)!r} in {text!r} is no literal value."
            ) from error

    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"spec: {text!r} does not read as Name(arguments).") from error
    if not isinstance(tree, ast.Call):
        raise ValueError(f"spec: {text!r} does not read as Name(arguments).")
    return value(tree)


def to_json(spec: Any) -> Any:
    """A spec as plain JSON values: `{"type": "Quadratic", "n": 20, "noise_stdev": 0.5}`.

    Fields at their default are left out.
    """
    if dataclasses.is_dataclass(spec):
        fields = {name: to_json(value) for name, value, _ in spec.arguments()}
        return {"type": type(spec).__name__, **fields}
    if isinstance(spec, tuple):
        return [to_json(item) for item in spec]
    return spec


def from_json(value: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
      ValueError: a type is missing or unknown, or its fields are rejected.
    """
    if isinstance(value, dict):
        fields = {name: from_json(item) for name, item in value.items() if name != "type"}
        return _build(value.get("type"), [], fields)
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    return value
