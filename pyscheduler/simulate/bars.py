"""Bars of a live view."""

from __future__ import annotations

from rich.text import Text


class Bars:
    """Draws shares of a whole.

    Args:
        unicode: whether the terminal shows more than ASCII.
    """

    def __init__(self, *, unicode: bool) -> None:
        self._full, self._empty = ("█", "░") if unicode else ("#", ".")

    def bar(self, value: int, whole: int, style: str, cells: int = 24) -> Text:
        """``value`` of ``whole``. Only what is whole looks whole, and only what is nothing looks empty."""
        filled = 0 if whole == 0 else cells * value // whole
        filled = max(min(filled, cells), 1) if value else 0
        return Text.assemble((self._full * filled, style), (self._empty * (cells - filled), "dim"))
