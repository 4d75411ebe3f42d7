"""ids: how a dropped file's name becomes a job's id, and so the name of its directory. Pure.

This is the only place where an id is made or judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .model import JobId

SUFFIXES = (".yaml", ".yml", ".json")
JOB_FILES = tuple(f"job{suffix}" for suffix in SUFFIXES)  # in a bundle
_NOT_READY = (".tmp", ".part")
LONGEST = 128

RULE = (
    f"an id has 1 to {LONGEST} characters, letters, digits or . _ @ + -, "
    "and starts with a letter or digit"
)

PATTERN = rf"[A-Za-z0-9][A-Za-z0-9._@+-]{{0,{LONGEST - 1}}}"
_ID = re.compile(PATTERN, re.ASCII)
_ODD = re.compile(r"[^A-Za-z0-9._@+-]+", re.ASCII)


def is_job_file(name: str) -> bool:
    """Whether a name in incoming/ is a job. A leading dot means: not ready yet."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def is_bundle(name: str) -> bool:
    """Whether a directory of this name in incoming/ may be a job with input files."""
    return not name.startswith(".") and not name.endswith((*SUFFIXES, *_NOT_READY))


def is_dropped(file: str) -> bool:
    """Whether it can be what was dropped: NAME.yaml, or NAME/job.yaml of a bundle."""
    name, slash, inner = file.partition("/")
    plain = bool(name) and not name.startswith(".") and "\0" not in name
    return plain and (not slash or inner in JOB_FILES)


def stem(name: str) -> str | None:
    """A job file's name without its suffix, or None if it is no job file."""
    return name.rpartition(".")[0] if is_job_file(name) else None


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def wanted_id(file: str) -> tuple[JobId, bool]:
    """The id that NAME.yaml or NAME/job.yaml asks for: see `safe_id`."""
    name, slash, _ = file.partition("/")
    return safe_id(name if slash else file.rpartition(".")[0])


def safe_id(text: str) -> tuple[JobId, bool]:
    """The text as an id, and True; or a safe one to refuse it under, and False."""
    if _ID.fullmatch(text):
        return JobId(text), True
    safe = _ODD.sub("_", text).lstrip("._@+-")[:LONGEST]
    return JobId(safe or "unnamed"), False


def free_id(wanted: JobId, taken: Callable[[JobId], bool]) -> JobId:
    """The id itself, or ID.2, ID.3 ... with the first free number, found in few looks.

    Looks at 2, 4, 8 ... and then halves the gap, so numbers freed in between are used or not.
    """
    if not taken(wanted):
        return wanted
    used, free = 1, 2
    while taken(_numbered(wanted, free)):
        used, free = free, free * 2
    while free - used > 1:
        middle = (used + free) // 2
        if taken(_numbered(wanted, middle)):
            used = middle
        else:
            free = middle
    return _numbered(wanted, free)


def _numbered(wanted: JobId, number: int) -> JobId:
    tail = f".{number}"
    return JobId(wanted[: LONGEST - len(tail)] + tail)
