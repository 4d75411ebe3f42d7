"""handover: what a step hands on: lines `key=value` in the file that $RUNNER_OUTPUT names. Pure.

A value of several lines is written as `key<<END`, the lines, and a line `END`, with any word for
END, as on GitHub Actions. A later line with the same key wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .kinds import LONGEST_ARGUMENT
from .yamlsafe import cut

LARGEST = 64 * 1024
MOST = 100
_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_-]{0,62})(=|<<)(.*)", re.ASCII)


def read_outputs(data: bytes) -> dict[str, str]:
    """The values by key. Raises ValueError with the line that is wrong."""
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST // 1024} KiB")
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from None
    found: dict[str, str] = {}
    rest = iter(enumerate(lines, 1))
    for number, line in rest:
        if not line:
            continue
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise ValueError(f"line {number}: expected key=value or key<<END, found {cut(line)!r}")
        key, kind, value = parts.groups()
        if kind == "<<":
            value = _until(value, rest, number)
        if "\0" in value or len(value.encode()) > LONGEST_ARGUMENT:
            raise ValueError(f"line {number}: the value cannot be passed on to a program")
        found[key] = value
        if len(found) > MOST:
            raise ValueError(f"line {number}: more than {MOST} keys")
    return found


def _until(end: str, rest: Iterator[tuple[int, str]], number: int) -> str:
    lines: list[str] = []
    for _, line in rest:
        if line == end:
            return "\n".join(lines)
        lines.append(line)
    raise ValueError(f"line {number}: the end {cut(end)!r} of this value is missing")


def variable(step: str, key: str) -> str:
    """The name under which later steps see a value."""
    return f"STEP_{step}_{key}".upper().replace("-", "_")
