"""Weights files of format `hrnn_opt.1`, whose hierarchical RNN had the rules among its switches.

Nothing but JSON is translated: the arrays have the same names.
"""

from __future__ import annotations

from typing import Any

FORMAT = "hrnn_opt.1"


def translated(description: dict[str, Any]) -> dict[str, Any]:
    """The description of format 1 as one of format 2.

    Raises:
        ValueError: if it has a switch that is gone.
    """
    description = dict(description, format="hrnn_opt.2")
    if "config" in description:
        description["config"] = _config(description["config"])
    if "settings" in description:
        description["settings"] = translated_settings(description["settings"])
    return description


def translated_settings(settings: Any) -> Any:
    """The settings, or a saved optimizer's words on its weights.

    Raises:
        ValueError: if they want the schedule that is gone.
    """
    if not isinstance(settings, dict):
        return settings
    settings = dict(settings)
    if settings.pop("decay_steps", 0.0):
        raise ValueError(
            "`decay_steps` is no setting any more: give the optimizer a schedule as its "
            "`learning_rate`.")
    if isinstance(settings.get("config"), dict) and "step_size" in settings["config"]:
        settings["config"] = _config(settings["config"])
    return settings


def _config(config: Any) -> Any:
    if not isinstance(config, dict) or "kind" in config:
        return config
    core = dict(config)
    normalized = core.pop("step_size", "learned") == "normalized"
    decay, bounded = core.pop("update_scale_decay", 0.0), core.pop("bounded_updates", False)
    width, share = core.pop("width_exponent", 0.0), core.pop("averaging", 0.0)
    alignment, limit = core.pop("alignment_control", False), core.pop("rotation_limit", 0)
    if core.pop("tensor_step_size", False):
        raise ValueError("`tensor_step_size` is no switch any more.")
    if normalized and core.get("lookahead"):
        raise ValueError("`lookahead` must be False with step_size='normalized'.")
    rules: list[Any] = []
    if share:
        rules.append(["averaging", {"share": share}])
    if limit:
        rules.append(["rotation", {"limit": limit}])
    if alignment:
        rules.append(["alignment", {}])
    if normalized:
        rules.append(["rescaling", {
            "decay": decay, "bounded": bounded, "width_exponent": width}])
    return {"kind": "hrnn", **core, "unit_direction": not normalized, "rules": rules}
