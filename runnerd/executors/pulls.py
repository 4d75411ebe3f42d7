"""pulls: what an engine tells while it fetches an image -> lines for the job's log. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EVERY_S = 2.0  # between two lines about how far it is


class Pull:
    """One image on its way. Times are monotonic."""

    def __init__(self, now: float) -> None:
        self._said_at = now
        self._parts: dict[str, tuple[int, int]] = {}  # of each layer: what is here, and of how much

    def lines(self, news: Mapping[str, Any], now: float) -> Iterator[str]:
        """What is worth a line."""
        part, status = str(news.get("id") or ""), str(news.get("status") or "")
        how_far = news.get("progressDetail") or {}
        if not how_far.get("total"):
            if status:
                yield f"{part}: {status}" if part else status
            return
        if status == "Downloading":
            self._parts[part] = int(how_far.get("current") or 0), int(how_far["total"])
        if now - self._said_at >= EVERY_S and self._parts:
            self._said_at = now
            here = sum(current for current, _ in self._parts.values())
            total = sum(total for _, total in self._parts.values())
            yield f"{here / 1e6:.1f} MB of {total / 1e6:.1f} MB fetched"
