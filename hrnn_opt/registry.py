"""Which kinds of networks and which rules there are, by the names that weights files use."""

from __future__ import annotations

from typing import Any

from hrnn_opt.checks import Config
from hrnn_opt.interface import LearnedOptimizer, NetworkConfig

# What a config that names no kind is of.
DEFAULT_KIND = "hrnn"
_KINDS: dict[str, type[LearnedOptimizer]] = {}
_RULES: dict[str, Any] = {}
MOST_RULES = 16


def register(cls: Any) -> Any:
    """Make a kind of network, or a rule, known by its config's name.

    Raises:
        ValueError: if another class has that name.
    """
    known = _RULES if cls.wraps else _KINDS
    name = cls.Config.NAME
    if not name or known.get(name, cls).__qualname__ != cls.__qualname__:
        raise ValueError(
            f"`Config.NAME` of {cls.__name__} must be a name that no other has, got {name!r}.")
    known[name] = cls
    return cls


def kinds() -> dict[str, type[LearnedOptimizer]]:
    """The kinds of networks, by name."""
    return dict(_KINDS)


def rules() -> dict[str, Any]:
    """The rules, by name."""
    return dict(_RULES)


def config_from_dict(values: Any) -> NetworkConfig:
    """The config that `NetworkConfig.to_dict` wrote: `{"kind": ..., switches, "rules": [[name,
    switches], ...]}`. What is left out has its default; the default kind is the hierarchical RNN.

    Raises:
        ValueError: if there is no such kind or rule, a name is none of its switches, or a value is
            not allowed.
    """
    if not isinstance(values, dict):
        raise ValueError(f"`config` must be a dict of switches, got {type(values).__name__}.")
    values = dict(values)
    kind, chain = values.pop("kind", DEFAULT_KIND), values.pop("rules", [])
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"`kind` must be one of {sorted(_KINDS)}, got {kind!r:.100}.")
    if not isinstance(chain, (list, tuple)) or len(chain) > MOST_RULES:
        raise ValueError(
            f"`rules` must be a list of at most {MOST_RULES} [name, switches], got {chain!r:.100}.")
    return NetworkConfig(
        _KINDS[kind].Config.from_dict(values), tuple(_rule_from(entry) for entry in chain))


def _rule_from(entry: Any) -> Config:
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        raise ValueError(f"`rules` must be of [name, switches], got {entry!r:.100}.")
    name, switches = entry
    if not isinstance(name, str) or name not in _RULES:
        raise ValueError(f"`rules` must be of {sorted(_RULES)}, got {name!r:.100}.")
    return _RULES[name].Config.from_dict(switches)


def network_of(config: NetworkConfig, seed: int = 0) -> LearnedOptimizer:
    """A new network with this config, inside its rules.

    Args:
        config: of both.
        seed: of the start values.
    """
    network = _KINDS[config.kind](config.core, seed=seed)
    for rule in reversed(config.rules):
        network = _RULES[rule.NAME](network, rule)
    return network
