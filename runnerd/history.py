"""history: the tries to deliver a job's events, in the job's directory, a line of JSON for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Self

from . import records
from .disk import DIRECTORY, Disk
from .frozen import frozen
from .units import rfc3339
from .webhook import Answer, Entry

DELIVERIES = "deliveries.jsonl"
_MODE = 0o644  # the job's directory says who gets that far
LARGEST = 1 << 20  # bytes; what comes after it is not noted


@frozen(kw_only=True)
class Delivery:
    """One try. `again_at`: when the next one comes, if there is one; `why`: of a failure."""

    event: str
    id: str
    url: str
    at: str
    delivered: bool
    status: int | None = None
    why: str | None = None
    took_s: float = 0.0
    again_at: str | None = None

    @classmethod
    def of(cls, entry: Entry, answer: Answer, *, now: float, wait_s: float | None) -> Self:
        return cls(
            event=entry.type,
            id=entry.id,
            url=entry.url,
            at=rfc3339(now),
            delivered=answer.delivered,
            status=answer.status,
            why=answer.why,
            took_s=answer.took_s,
            again_at=None if wait_s is None else rfc3339(now + wait_s),
        )


def note(disk: Disk, places: Iterable[int], job: str, delivery: Delivery) -> None:
    """Add a line, in whichever of the places the job lies. Nothing if it is gone."""
    for at in places:
        try:
            dir_fd = os.open(job, DIRECTORY, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            disk.extend(DELIVERIES, records.dumps(delivery), _MODE, at=dir_fd, most=LARGEST)
        finally:
            os.close(dir_fd)
        return


def read(data: bytes) -> Iterator[Delivery]:
    """The lines that are whole."""
    for line in data.split(b"\n"):
        try:
            yield records.loads(Delivery, line)
        except (ValueError, RecursionError):
            continue
