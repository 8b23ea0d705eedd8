"""What is said once: notes of plans."""

from __future__ import annotations

import logging

log = logging.getLogger("cce_torch")
_said: set[str] = set()


def once(level: int, message: str) -> None:
    """Logs a message the first time that it comes."""
    if message not in _said:
        _said.add(message)
        log.log(level, message)
