"""frames: records over a stream socket, each after its length. For courier and carrier.

Not datagrams, as between daemon and runners: an event may be larger than a datagram can be.
"""

from __future__ import annotations

import socket
import struct
from typing import TypeVar

from . import records

T = TypeVar("T")
_LENGTH = struct.Struct("!I")
_PIECE = 1 << 16


def send(sock: socket.socket, record: object) -> None:
    """Send one record. Raises OSError when the other side is gone."""
    data = records.dumps(record)
    sock.sendall(_LENGTH.pack(len(data)) + data)


class Inbox:
    """What comes over one socket, which is another process's of our own making."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = bytearray()

    def receive(self, kind: type[T]) -> list[T]:
        """The records that one read completes. Raises EOFError at the end."""
        piece = self._sock.recv(_PIECE)
        if not piece:
            raise EOFError
        self._rest += piece
        found = []
        while len(self._rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest)
            end = _LENGTH.size + length
            if len(self._rest) < end:
                break
            found.append(records.loads(kind, bytes(self._rest[_LENGTH.size : end])))
            del self._rest[:end]
        return found
