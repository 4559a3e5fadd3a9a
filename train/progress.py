"""Progress with the time left: a bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SECONDS = 60.0


class _Lines(tqdm):
    """Each state on a line of its own, and only when it is due."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "mininterval": SECONDS, "maxinterval": SECONDS,
                            "miniters": 1, "bar_format": "{l_bar}{n_fmt}/{total_fmt} "
                            "[{elapsed}<{remaining}, {rate_fmt}{postfix}]"})

    @staticmethod
    def status_printer(file: Any) -> Any:
        """What writes a state."""
        return lambda text: print(text, file=file, flush=True) if text else None

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Said with the next state."""
        super().set_postfix_str(s, refresh=False)


def bar(**settings: Any) -> tqdm:
    """A `tqdm.tqdm` on stderr with these settings."""
    kind = tqdm if sys.stderr.isatty() else _Lines
    return kind(file=sys.stderr, **settings)
