"""units: durations, sizes, shares and times <-> the text that people write and read. Pure.

Each reader raises ValueError with a sentence, and each has its pattern beside it, for schemas.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

DURATION = r"[0-9]{1,9}(?:\.[0-9]{1,3})?(?:ms|s|m|h|d)?"
SIZE = r"[0-9]{1,9}(?:\.[0-9]{1,3})?(?:[KMGT](?:iB)?)?"
SHARE = r"[0-9]{1,6}(?:\.[0-9]{1,3})?%"
NUMBER = r"[0-9]{1,6}(?:\.[0-9]{1,6})?"
MOMENT = (
    r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}[Tt ](?:[01][0-9]|2[0-3]):[0-9]{2}"
    r"(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)

_SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def duration(text: str) -> float:
    """Seconds from `90`, `90s`, `500ms`, `10m`, `2h`, `1d`."""
    if not re.fullmatch(DURATION, text):
        raise ValueError(f"{text!r} is no duration; write 90, 90s, 500ms, 10m, 2h or 1d")
    number = text.rstrip("mshd")
    return float(number) * _SECONDS[text[len(number) :]]


def in_words(seconds: float) -> str:
    """A duration as people write it: `90s`, `10m`, `1.5s`."""
    for unit in ("d", "h", "m"):
        part = _SECONDS[unit]
        if seconds >= part and seconds % part == 0:
            return f"{seconds / part:.10g}{unit}"
    return f"{seconds:.10g}s"


def size(text: str) -> int:
    """Bytes from `512`, `512K`, `1.5G`; K is 1,024, and KiB says the same."""
    if not re.fullmatch(SIZE, text):
        raise ValueError(f"{text!r} is no size; write 512K, 100M, 1.5G or 1T")
    short = text.removesuffix("iB")
    number = short.rstrip("KMGT")
    return int(float(number) * _BYTES[short[len(number) :]])


def size_in_words(count: float) -> str:
    """A size as people write it: `512M`, `1.5K`, `100`."""
    for unit in ("T", "G", "M", "K"):
        part = _BYTES[unit]
        if count >= part and count * 1000 % part == 0:
            return f"{count / part:.10g}{unit}"
    return f"{count:.10g}"


def share(text: str) -> float:
    """Parts of one CPU from `150%`."""
    if not re.fullmatch(SHARE, text):
        raise ValueError(f"{text!r} is no percentage; write 50% or 150%")
    return float(text[:-1]) / 100


def share_in_words(part: float) -> str:
    return f"{part * 100:.10g}%"


def number(text: str) -> float:
    if not re.fullmatch(NUMBER, text):
        raise ValueError(f"{text!r} is no number; write 2 or 1.5")
    return float(text)


def moment(text: str) -> float:
    """Seconds since the epoch from RFC 3339, which always has a zone."""
    if not re.fullmatch(MOMENT, text):
        raise ValueError(f"{text!r} is no time with a zone; write 2026-12-01T03:00:00Z")
    return datetime.fromisoformat(text.upper()).timestamp()


def rfc3339(epoch_s: float) -> str:
    """A time as RFC 3339, UTC, with milliseconds."""
    stamp = datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def epoch(text: str) -> float:
    """Seconds since the epoch from what `rfc3339` wrote."""
    return datetime.fromisoformat(text).timestamp()
