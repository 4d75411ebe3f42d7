"""messages: all that the daemon says to a runner or its courier, and they to it.

Over one SOCK_SEQPACKET socket for each of them.

Daemon to runner: Start, with the job's locked `.claim` descriptor. While it lies in the socket the
lock holds, even if the daemon dies, so no moment exists in which a live job looks dead.
Sweep or Prune, to a runner that is to do that and nothing else.
Runner to daemon: Finished, Waiting, Returned, Told; Swept; Pruned. A closed socket is the only
other thing there is to say: the daemon closes to end an idle runner, and a runner that reads the
end finishes its job and leaves.

Daemon to courier: Orders, first; then Wake and Hurry. Courier to daemon: Rested, and Left, last.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Mapping
from dataclasses import field
from typing import Self

from . import records
from .frozen import frozen
from .model import JobId, Reason, State
from .outcome import Result
from .settings import Callbacks, Channel, Retention
from .units import epoch

LARGEST = 4096
GONE = (BrokenPipeError, ConnectionResetError)
"""What `send` raises where nobody is left to read; the second, if something was unread before."""
LARGEST_ORDERS = 1 << 20
_ROOM = socket.CMSG_SPACE(4)  # for a descriptor


@frozen(kw_only=True)
class Start:
    """Run this job. The descriptor that comes with it is its lock."""

    id: JobId


@frozen(kw_only=True)
class Finished:
    """The job is filed, its result on disk; the runner is free.

    `waited_s`: from its drop to its start, None if it never started. `duration_s`: of its last
    attempt, as in the result. `told`: there may be news in the outbox.
    """

    id: JobId
    state: State
    reason: Reason | None
    waited_s: float | None = None
    duration_s: float | None = None
    told: bool = True

    @classmethod
    def of(cls, result: Result, *, told: bool = True) -> Self:
        waited_s = None
        if result.started_at is not None:  # the clock may have been set back meanwhile
            waited_s = max(0.0, epoch(result.started_at) - epoch(result.submitted_at))
        return cls(
            id=result.id,
            state=result.state,
            reason=result.reason,
            waited_s=waited_s,
            duration_s=result.duration_s,
            told=told,
        )


@frozen(kw_only=True)
class Returned:
    """Nothing of the job ran, because of the machine; it lies in running/ for another try."""

    id: JobId
    why: str


@frozen(kw_only=True)
class Waiting:
    """An attempt failed and is put away; the next one may start at this time."""

    id: JobId
    retry_at: float


@frozen(kw_only=True)
class Sweep:
    """Instead of a job: remove what executors have left of jobs that do not live."""


@frozen(kw_only=True)
class Swept:
    """Done, or why not. The runner may look once more after this, and then leaves."""

    removed: int
    why: str | None = None


@frozen(kw_only=True)
class Prune:
    """Instead of a job: remove the filed jobs that are not to be kept."""

    retention: Retention


@frozen(kw_only=True)
class Pruned:
    """Done: so many jobs are gone. `why`: what is left that should have been removed as well.

    `next_at`: when the next job is too old.
    """

    jobs: int
    why: str | None = None
    next_at: float | None = None


@frozen(kw_only=True)
class Told:
    """The job goes on, and there are news of it in the outbox."""

    id: JobId


@frozen(kw_only=True)
class Orders:
    """How a courier is to deliver. `targets`: the channels by KIND:NAME."""

    settings: Callbacks
    targets: Mapping[str, Channel] = field(default_factory=dict)


@frozen(kw_only=True)
class Wake:
    """Look at the outbox."""

    number: int


@frozen(kw_only=True)
class Hurry:
    """Try the events of this job now, whatever they wait for."""

    id: JobId


@frozen(kw_only=True)
class Rested:
    """Nothing can be told now; that is so after the Wake of this number."""

    number: int


@frozen(kw_only=True)
class Left:
    """There was nothing to do for a while, and the courier ends."""

    number: int


_OfRunners = Start | Finished | Returned | Waiting | Told | Sweep | Swept | Prune | Pruned
Message = _OfRunners | Orders | Wake | Hurry | Rested | Left
_KINDS: dict[bytes, type[Message]] = {
    b"S": Start,
    b"F": Finished,
    b"R": Returned,
    b"W": Waiting,
    b"C": Sweep,
    b"D": Swept,
    b"P": Prune,
    b"E": Pruned,
    b"T": Told,
    b"O": Orders,
    b"K": Wake,
    b"H": Hurry,
    b"Q": Rested,
    b"L": Left,
}
_TAGS = {kind: tag for tag, kind in _KINDS.items()}


def prepare() -> None:
    """Find out how all of them are read and written."""
    records.prepare(*_TAGS)


def send(sock: socket.socket, message: Message, *fds: int) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([_TAGS[type(message)], records.terse(message)], rights)


def receive(sock: socket.socket, largest: int = LARGEST) -> tuple[Message | None, list[int]]:
    """One message and its descriptors; None at the end. Raises ValueError for anything else.

    Not socket.recv_fds: in Python 3.11 it ignores its flags, and the lock must not reach a job.
    """
    try:
        data, rights, _, _ = sock.recvmsg(largest, _ROOM, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None, []
    fds = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    if not data:
        return None, list(fds)
    if data[:1] not in _KINDS:
        raise ValueError(f"not a message: {data[:80]!r}")
    return records.loads(_KINDS[data[:1]], data[1:]), list(fds)
