"""units: durations and times <-> the text that people write and read. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FACTOR = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?", re.ASCII)


def duration(text: str) -> float:
    """Seconds from `90`, `90s`, `500ms`, `10m`, `2h`, `1d`. Raises ValueError with a sentence."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration; write 90, 90s, 500ms, 10m, 2h or 1d")
    return float(found[1]) * _FACTOR[found[2] or ""]


def in_words(seconds: float) -> str:
    """A duration as people write it: `90s`, `10m`, `1.5s`."""
    for unit in ("d", "h", "m"):
        size = _FACTOR[unit]
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.10g}{unit}"
    return f"{seconds:.10g}s"


def rfc3339(epoch_s: float) -> str:
    """A time as RFC 3339, UTC, with milliseconds."""
    stamp = datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def epoch(text: str) -> float:
    """Seconds since the epoch from what `rfc3339` wrote."""
    return datetime.fromisoformat(text).timestamp()
