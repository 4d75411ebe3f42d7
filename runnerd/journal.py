"""journal: where the events go: to systemd's journal with fields, or to standard error as lines.

The journal is spoken to by its socket protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), not by
python3-systemd: that is one more dependency, compiled, for what is some fifty lines; and its
handler cannot tell us that nobody listens. Daemon and runners share standard error, so a line is
one write(2) that a pipe takes whole. A socket is opened for each event: no process has to know
which descriptors another one closed.

Errors: none. Who cannot log goes on; where the journal is away, the line goes to standard error.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

from . import events, records, units
from .errors import RunnerdError
from .events import FIELDS, NOTICE, Crashed, Event, harmless

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "runnerd"
LONGEST = 4096  # bytes of a line: PIPE_BUF, up to which pipe(7) does not mix writes
PATIENCE_S = 1  # a journal that hangs must not hang us
_PRIORITIES = {logging.INFO: 6, NOTICE: 5, logging.WARNING: 4, logging.ERROR: 3}
_WORDS = {logging.INFO: "info", NOTICE: "notice", logging.WARNING: "warning"}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class LogFormat(StrEnum):
    """The form of the log."""

    AUTO = "auto"  # the journal if standard error leads there, or else text
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


Writer = Callable[[float, int, str, "Event | None"], None]  # when, how bad, in words, what


def open_log(form: LogFormat = LogFormat.AUTO) -> None:
    """Send events, and what libraries log, where they belong. Raises RunnerdError."""
    write = _writer(form)
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries(write)])

    def write_event(event: Event) -> None:
        try:
            write(time.time(), event.level, str(event), event)
        except OSError:
            return  # there is nobody to tell

    events.write = write_event


def _writer(form: LogFormat) -> Writer:
    match form:
        case LogFormat.TEXT:
            return _write_text
        case LogFormat.JSON:
            return _write_json
    if form is LogFormat.AUTO and not is_journal(2):
        return _write_text
    try:
        send(b"")  # which the journal takes for nothing
    except OSError as error:
        if form is LogFormat.AUTO:
            return _write_marked
        raise RunnerdError(
            f"the log format journal needs systemd's journal; {SOCKET}: {error.strerror}"
        ) from error
    return _write_journal


def is_journal(fd: int) -> bool:
    """Whether systemd has connected this descriptor with the journal (systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class _OfLibraries(logging.Handler):
    """What others log is written beside the events."""

    def __init__(self, write: Writer) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # as above
            self._write(record.created, record.levelno, harmless(self.format(record)), None)


# --- lines --------------------------------------------------------------------------------------


def _write_text(when: float, _: int, text: str, event: Event | None) -> None:
    second = int(when)
    stamp = f"{_stamp(second)},{int((when - second) * 1000):03}"
    for line in _lines(text, event):
        _write_line(f"{stamp} {IDENTIFIER}: {line}")


@lru_cache(maxsize=1)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def _write_marked(_: float, level: int, text: str, event: Event | None) -> None:
    """With a priority, as the journal reads it from a stream (sd-daemon(3))."""
    for line in _lines(text, event):
        _write_line(f"<{_priority(level)}>{line}")


def _lines(text: str, event: Event | None) -> tuple[str, ...]:
    """One for each event; a fault of our own is told with all that is known."""
    return event.below if isinstance(event, Crashed) else (text,)


def _write_line(line: str) -> None:
    data = line.encode("utf-8", "backslashreplace")
    if len(data) >= LONGEST:
        data = data[: LONGEST - 4].decode("utf-8", "ignore").encode() + b"..."
    os.write(2, data + b"\n")


def _write_json(when: float, level: int, text: str, event: Event | None) -> None:
    entry: dict[str, object] = {
        "time": units.rfc3339(when),
        "level": _WORDS.get(level, "error"),
        "message": text,
    }
    if event is not None:
        entry |= {"event": type(event).__name__, "message_id": event.message_id}
        for name, value in event.values.items():
            if name != "message":  # the whole sentence has this name
                entry[FIELDS.get(name, name).lower()] = records.plain(value)
    _write_object(entry)


def _write_object(entry: dict[str, object]) -> None:
    """One object as one line: without its longest values, as long as it is too long."""
    while len(data := json.dumps(entry).encode()) >= LONGEST:
        longest = max(entry, key=lambda name: len(json.dumps(entry[name])))
        value = entry[longest]
        whole = value if isinstance(value, str) else ""
        entry[longest] = f"{whole[: len(whole) // 2]}..." if len(whole) > 3 else "..."
    os.write(2, data + b"\n")


# --- the journal --------------------------------------------------------------------------------


def _write_journal(when: float, level: int, text: str, event: Event | None) -> None:
    try:
        send(entry_of(level, text, event))
    except BlockingIOError:
        pass  # it hangs, and would as well for who wrote to standard error
    except OSError:
        _write_marked(when, level, text, event)


def entry_of(level: int, text: str, event: Event | None) -> bytes:
    """An entry as the journal takes it.

    What belongs below the line is a part of the message, where nobody can take it for another
    entry: journalctl indents it, and each of its lines is marked.
    """
    below = () if event is None else event.below
    named = {
        "MESSAGE": "\n".join([text, *(f"  | {each}" for each in below)]),
        "PRIORITY": str(_priority(level)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
    }
    if event is not None:
        named |= {"MESSAGE_ID": event.message_id, **event.named()}
    return b"".join(_field(name, value) for name, value in named.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def send(entry: bytes, address: str = SOCKET) -> None:
    """Send one entry: as a datagram, or what is too long for one as a sealed file in memory.

    Raises OSError; BlockingIOError if the journal does not take it in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # Not settimeout: it would go round in circles, for such a socket is always writable.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE_S, 0))
        try:
            sock.sendto(entry, address)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
        else:
            return
        fd = os.memfd_create("runnerd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(entry)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            sock.sendmsg([], rights, 0, address)
        finally:
            os.close(fd)


def _priority(level: int) -> int:
    return _PRIORITIES.get(level, 3 if level > logging.WARNING else 5)
