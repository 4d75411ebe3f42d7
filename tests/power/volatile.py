"""volatile: an nbdkit plugin, a disk that notes every write and every flush, in their order.

    nbdkit python tests/power/volatile.py file=DISK log=LOG acks=ACKS

What a power cut leaves of such a disk is decided afterwards, from the log (see `writelog`). Each
record also has the size of ACKS when the request came: what had been promised by then.

nbdkit loads this file into a Python of its own, so it imports nothing of the project.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import nbdkit

API_VERSION = 2
HEADER = struct.Struct("<BxxxIQQ")  # kind, length, offset, size of the acknowledgements
WRITE, FLUSH = 1, 2

_paths: dict[str, str] = {}
_fds: dict[str, int] = {}


def config(key: str, value: str) -> None:
    _paths[key] = value


def get_ready() -> None:
    _fds["file"] = os.open(_paths["file"], os.O_RDWR | os.O_CLOEXEC)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    _fds["log"] = os.open(_paths["log"], flags, 0o600)


def thread_model() -> int:
    model: int = nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS
    return model


def open(_readonly: int) -> int:  # noqa: A001  # nbdkit calls it so
    return 1


def get_size(_handle: int) -> int:
    return os.fstat(_fds["file"]).st_size


def can_write(_handle: int) -> bool:
    return True


def can_flush(_handle: int) -> bool:
    return True


def can_fua(_handle: int) -> int:
    emulated: int = nbdkit.FUA_EMULATE  # a write, then a flush
    return emulated


def can_multi_conn(_handle: int) -> bool:
    return True


def pread(_handle: int, buffer: bytearray, offset: int, _flags: int) -> None:
    buffer[:] = os.pread(_fds["file"], len(buffer), offset)


def pwrite(_handle: int, buffer: bytes, offset: int, _flags: int) -> None:
    _note(WRITE, offset, bytes(buffer))
    os.pwrite(_fds["file"], buffer, offset)


def flush(_handle: int, _flags: int) -> None:
    _note(FLUSH, 0, b"")


def _note(kind: int, offset: int, data: bytes) -> None:
    promised = Path(_paths["acks"]).stat().st_size
    os.writev(_fds["log"], [HEADER.pack(kind, len(data), offset, promised), data])
