"""The card of weights: what a reader of their folder, or of their page on the Hub, is told."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hrnn_opt.weights import Pretrained

_CARD = """\
---
library_name: hrnn_opt
tags:
- learned-optimizer
- keras
---

# Weights of a learned optimizer

For `HierarchicalLOpt` of hrnn-opt, on every backend of Keras 3. From a copy of this folder:

```python
from hrnn_opt import HierarchicalLOpt

model.compile(optimizer=HierarchicalLOpt(weights="THIS_FOLDER"), loss=...)
```

On the Hub, the name of the repository takes the folder's place.

| | |
|---|---|
{rows}

{text}"""


def model_card(pretrained: Pretrained, digest: str, text: str = "") -> str:
    """A card in Markdown, headed by what the Hub reads.

    Args:
        pretrained: the weights.
        digest: SHA-256 of their file.
        text: what else its reader shall know.
    """
    default = type(pretrained.config)()
    switches = ", ".join(
        f"`{field.name}={getattr(pretrained.config, field.name)!r}`"
        for field in dataclasses.fields(default)
        if getattr(pretrained.config, field.name) != getattr(default, field.name))
    rows = {
        "switches other than the defaults": switches or "none",
        "meta-parameters": f"{sum(array.size for array in pretrained.arrays.values()):,}",
        **{name.replace("_", " "): value for name, value in pretrained.settings().items()},
        "SHA-256": digest,
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return _CARD.format(rows=lines, text=text.strip()).strip() + "\n"
