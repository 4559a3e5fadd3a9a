"""What a caller means by `weights`: a name, a path, a network, or what a saved optimizer says."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
from pathlib import Path
from typing import Any

from hrnn_opt.files import foreign, format_1, hub
from hrnn_opt.files.weights import Pretrained, parse_settings
from hrnn_opt.interface import LearnedOptimizer, NetworkConfig
from hrnn_opt.registry import DEFAULT_KIND, config_from_dict, network_of

UNTRAINED = "untrained"
# Of 0.001, 0.003, 0.01, 0.03 and 0.1 the best on a convnet for 8 x 8 digits, for 15 epochs.
UNTRAINED_INITIAL_LEARNING_RATE = 3e-3
PRETRAINED_DIR = Path(__file__).parents[1] / "pretrained"


def shipped() -> list[str]:
    """The names of the weights that come with the package."""
    return sorted(path.stem for path in PRETRAINED_DIR.glob("*.safetensors"))


def resolve(weights: Any, lookahead: bool | None = None, seed: int = 0) -> Pretrained:
    """What the caller of an optimizer means by `weights`.

    Args:
        weights: a shipped name, the path of a weights file or folder, a name on the Hub,
            `"untrained"`, a network, or what `to_config` gave.
        lookahead: False turns it off; True asks for it; None takes it as it is.
        seed: of the numbers of `"untrained"` ones.

    Raises:
        ValueError: if `weights` is none of these, the file is not good, or there is no lookahead
            to be had.
    """
    if lookahead is not None and not isinstance(lookahead, bool):
        raise ValueError(f"`lookahead` must be True, False or None, got {lookahead!r}.")
    pretrained = _find(weights, bool(lookahead), seed)
    if lookahead is False:
        return pretrained.without_lookahead()
    if lookahead and not pretrained.has_lookahead:
        raise ValueError(
            "`lookahead` must be None or False for weights that were meta-trained without it, got "
            "True.")
    return pretrained


def _find(weights: Any, lookahead: bool, seed: int) -> Pretrained:
    if isinstance(weights, Pretrained):
        return weights
    if isinstance(weights, LearnedOptimizer):
        return Pretrained.from_network(weights)
    if isinstance(weights, dict):
        return from_config(weights, seed)
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be a shipped name, a path, a name on the Hub, 'untrained' or a learned "
            f"optimizer's network, got {type(weights).__name__}.")
    if weights == UNTRAINED:
        return untrained(_default_config(lookahead), seed)
    if weights in shipped():
        return dataclasses.replace(
            Pretrained.load(PRETRAINED_DIR / f"{weights}.safetensors"), name=weights)
    if os.path.exists(weights):
        return foreign.load(weights)
    allowed = (
        f"one of {[*shipped(), UNTRAINED]}, the path of a weights file or folder, a name on the "
        "Hub ('user/name') or a learned optimizer's network")
    if not isinstance(weights, str) or not hub.is_name(weights):
        raise ValueError(f"`weights` must be {allowed}, got {str(weights)!r}.")
    try:
        return foreign.from_hub(weights)
    except ValueError as error:
        raise ValueError(f"`weights` must be {allowed}, got {weights!r}. {error}") from error


def _default_config(lookahead: bool) -> NetworkConfig:
    return config_from_dict({"kind": DEFAULT_KIND, "lookahead": lookahead})


def untrained(config: NetworkConfig, seed: int = 0) -> Pretrained:
    """The start values of meta-training, with the initial learning rate that suits them."""
    return Pretrained.from_network(
        network_of(config, seed=seed), name=UNTRAINED,
        initial_learning_rate=UNTRAINED_INITIAL_LEARNING_RATE)


def to_config(pretrained: Pretrained) -> dict[str, Any]:
    """What an optimizer's config says of its weights, enough to rebuild it with no file at hand.

    Weights with a name go by it; others travel whole.
    """
    if pretrained.name is None:
        return {"safetensors": base64.b64encode(pretrained.to_bytes()).decode("ascii")}
    return {
        "name": pretrained.name, "config": pretrained.config.to_dict(), **pretrained.settings()}


def from_config(description: dict[str, Any], seed: int = 0) -> Pretrained:
    """What `to_config` described.

    The weights of that name may have another config by now, or be gone; then the numbers must come
    from the saved variables, and the arrays are None.

    Raises:
        ValueError: if it is no such description.
    """
    if "safetensors" in description:
        try:
            content = base64.b64decode(description["safetensors"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise ValueError("`weights` in the optimizer's config are damaged.") from None
        return Pretrained.from_bytes(content, "the optimizer's config")
    settings = format_1.translated_settings(description)
    try:
        name, config = settings.pop("name"), config_from_dict(settings.pop("config"))
    except KeyError as error:
        raise ValueError(f"`weights` in the optimizer's config lack {error}.") from None
    settings = parse_settings(settings)
    if name == UNTRAINED:
        found = untrained(config, seed)
    elif name in shipped():
        found = resolve(name, lookahead=None if getattr(config.core, "lookahead", False) else False)
    else:
        found = None
    if found is None or found.config != config:
        return Pretrained(config, None, name=name, **settings)
    return dataclasses.replace(found, **settings)


