"""Places in the user's source: where a message about a loss points."""

from __future__ import annotations

import linecache
import sys
from types import FrameType

#: Packages whose frames are not the user's: this one, and libraries whose functions come back to it.
_PACKAGES = (__package__, "torch", "numpy")
#: Losses that this package writes in its own language, as a user would.
_LOSSES = f"{__package__}._linear"


def _is_users(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return module == _LOSSES or module.partition(".")[0] not in _PACKAGES


class Sites:
    """Places in the user's source, by number."""

    def __init__(self) -> None:
        self.places: list[tuple[str, int, int | None, int | None]] = []

    def of(self, filename: str, line: int, start: int | None = None, end: int | None = None) -> int:
        """The number of a place: a line, and the bytes of it where an expression begins and ends."""
        self.places.append((filename, line, start, end))
        return len(self.places) - 1

    def here(self) -> tuple[int, FrameType]:
        """The place of the innermost frame of the user's."""
        frame = sys._getframe(1)
        while not _is_users(frame) and frame.f_back is not None:
            frame = frame.f_back
        start = end = None
        if sys.version_info >= (3, 11):
            positions = list(frame.f_code.co_positions())
            first, last, start, end = positions[frame.f_lasti // 2]
            if first != last:
                start = end = None
        return self.of(frame.f_code.co_filename, frame.f_lineno, start, end), frame

    def show(self, site: int) -> str:
        """Where it is, and its line with the expression marked."""
        filename, line, start, end = self.places[site]
        source = linecache.getline(filename, line).rstrip("\n")
        if source and start is not None and end is not None:
            # The interpreter counts bytes of UTF-8.
            start, end = (len(source.encode()[:at].decode(errors="ignore")) for at in (start, end))
        column = "" if start is None else f":{start + 1}"
        text = f" --> {filename}:{line}{column}"
        if source:
            margin = " " * len(str(line))
            text += f"\n{margin} |\n{line} | {source}"
            if start is not None and end is not None:
                marks = "^" * max(1, end - start)
                text += f"\n{margin} | {' ' * start}{marks}"
        return text

    def line(self, site: int) -> int:
        """Its line's number."""
        return self.places[site][1]
