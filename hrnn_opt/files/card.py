"""The card of weights: what a reader of their folder, or of their page on the Hub, is told."""

from __future__ import annotations

import dataclasses
from typing import Any

from hrnn_opt.interface import NetworkConfig

_CARD = """\
---
library_name: hrnn_opt
tags:
- learned-optimizer
- keras
---

# Weights of a learned optimizer

For `LearnedOpt` of hrnn-opt, on every backend of Keras 3. From a copy of this folder:

```python
from hrnn_opt import LearnedOpt

model.compile(optimizer=LearnedOpt(weights="THIS_FOLDER"), loss=...)
```

On the Hub, the name of the repository takes the folder's place.

| | |
|---|---|
{rows}

{text}"""


def model_card(
    config: NetworkConfig, settings: dict[str, Any], numbers: int, digest: str, text: str = ""
) -> str:
    """A card in Markdown, headed by what the Hub reads.

    Args:
        config, settings: of the weights.
        numbers: how many meta-parameters they have.
        digest: SHA-256 of their file.
        text: what else its reader shall know.
    """
    rows = {
        "kind": config.kind,
        "switches other than the defaults": _switches(config.core) or "none",
        "rules around it": "; ".join(
            f"{rule.NAME} ({_switches(rule) or 'defaults'})" for rule in config.rules) or "none",
        "meta-parameters": f"{numbers:,}",
        **{name.replace("_", " "): value for name, value in settings.items()},
        "SHA-256": digest,
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return _CARD.format(rows=lines, text=text.strip()).strip() + "\n"


def _switches(config: Any) -> str:
    default = type(config)()
    return ", ".join(
        f"`{field.name}={getattr(config, field.name)!r}`"
        for field in dataclasses.fields(default)
        if getattr(config, field.name) != getattr(default, field.name))
