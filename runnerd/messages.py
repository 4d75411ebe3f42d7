"""messages: all that the daemon and a runner say to each other, over one SOCK_SEQPACKET socket.

Daemon to runner: Start, with the job's locked `.claim` descriptor. While it lies in the socket the
lock holds, even if the daemon dies, so no moment exists in which a live job looks dead.
Runner to daemon: Finished, Waiting, Returned. A closed socket is the only other thing there is to
say: the daemon closes to end an idle runner, and a runner that reads the end finishes its job and
leaves.
"""

from __future__ import annotations

import array
import socket
from dataclasses import dataclass

from . import records
from .model import JobId, Reason, State

LARGEST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Run this job. The descriptor that comes with it is its lock."""

    id: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The job is filed, and synced; the runner is free."""

    id: JobId
    state: State
    reason: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """Nothing of the job ran, because of the machine; it lies in running/ for another try."""

    id: JobId
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An attempt failed and is put away; the next one may start at this time."""

    id: JobId
    retry_at: float


Message = Start | Finished | Returned | Waiting
_KINDS: dict[bytes, type[Message]] = {
    b"S": Start,
    b"F": Finished,
    b"R": Returned,
    b"W": Waiting,
}
_TAGS = {kind: tag for tag, kind in _KINDS.items()}


def send(sock: socket.socket, message: Message, *fds: int) -> None:
    """Send one message. Raises OSError when the other side is gone."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([_TAGS[type(message)], records.dumps(message)], rights)


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """One message and its descriptors; None at the end. Raises ValueError for anything else.

    Not socket.recv_fds: in Python 3.11 it ignores its flags, and the lock must not reach a job.
    """
    room = socket.CMSG_SPACE(4)
    try:
        data, rights, _, _ = sock.recvmsg(LARGEST, room, socket.MSG_CMSG_CLOEXEC)
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
