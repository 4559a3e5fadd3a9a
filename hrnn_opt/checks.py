"""One way to refuse an argument, and what all configs have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self


def require(name: str, value: Any, ok: Any, allowed: str) -> None:
    """One line of the validation of arguments.

    Raises:
        ValueError: unless ok, naming the argument, what came and what is allowed.
    """
    if not ok:
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}.")


def require_count(name: str, value: Any, least: int) -> None:
    """`require` an integer of at least so much."""
    require(name, value, is_number(value, int) and value >= least,
            f"an integer of at least {least}")


def check(config: Any, name: str, ok: Any, allowed: str) -> None:
    """`require` of a config's field, by its name."""
    require(name, getattr(config, name), ok, allowed)


def is_number(value: Any, kinds: type | tuple[type, ...] = (int, float)) -> bool:
    """Whether a value is of these kinds of numbers; True and False are none."""
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Config:
    """The switches of a kind of network, or of a rule: a frozen dataclass that goes to JSON."""

    NAME: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """All switches by name, as JSON holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The config that `to_dict` wrote; a switch that is left out has its default.

        Raises:
            ValueError: if a name is not a switch, or a value is not allowed.
        """
        if not isinstance(values, dict):
            raise ValueError(
                f"`config` of {cls.NAME!r} must be a dict of switches, got "
                f"{type(values).__name__}.")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"`config` has switches that {cls.NAME!r} does not know: {', '.join(unknown)}.")
        return cls(**{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()})
