"""output: from the job's standard output and error to output.log, byte for byte.

Both streams share one pipe, so the log has them in the order in which they were written. Where
nothing has to look at the bytes the kernel moves them (splice). Where secrets must be hidden, and
where a job runs in the foreground and is copied to our own standard output, we do.

A log that cannot be written (no space) does not hurt the job: its output is thrown away from then
on, and `lost` says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection
from typing import Self

from .disk import Disk
from .redact import Redactor

_PIECE = 1 << 20


class Output:
    """The pipe of one job and the log that it fills. `write_fd` is for the executor to pass on."""

    def __init__(self, log_fd: int, *, echo_fd: int | None = None) -> None:
        self._log_fd = log_fd
        self._echo_fd = echo_fd
        self._splices = echo_fd is None
        self._redactor: Redactor | None = None
        self._moved = 0
        self.lost: str | None = None
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_pipe()
        os.close(self._log_fd)

    def hide(self, secrets: Collection[bytes]) -> None:
        """Keep these out of all that is still to come."""
        if secrets:
            self._redactor = Redactor(secrets)
            self._splices = False

    def close_write_end(self) -> None:
        """The job has it now: our own copy would keep the pipe open for ever."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def close_pipe(self) -> None:
        self.close_write_end()
        os.close(self.read_fd)

    def pump(self) -> bool:
        """Move one piece of what the pipe holds, if anything. False at the end of the output."""
        try:
            moved = self._splice() if self._splices else self._copy()
        except BlockingIOError:
            return True
        self._moved += moved
        return moved > 0

    def drain(self) -> None:
        """Move what is in the pipe now, and do not wait for whoever still holds it open."""
        most = self._moved + fcntl.fcntl(self.read_fd, fcntl.F_GETPIPE_SZ)
        before = -1
        while before < self._moved < most:
            before = self._moved
            self.pump()
        if self._redactor is not None:
            self._deliver(self._redactor.rest())

    def sync(self, disk: Disk) -> None:
        """Put the log on disk, as far as it could be written."""
        try:
            if self._moved:
                disk.sync(self._log_fd)
        except OSError as error:
            self.lost = str(error)

    def _splice(self) -> int:
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        try:
            return os.splice(self.read_fd, self._log_fd, _PIECE, flags=flags)
        except BlockingIOError:
            raise
        except OSError as error:
            self._splices = False
            if error.errno != errno.EINVAL:  # EINVAL: this file system cannot, so copy
                self.lost = str(error)
            return self._copy()

    def _copy(self) -> int:
        data = os.read(self.read_fd, _PIECE)
        self._deliver(data if self._redactor is None else self._redactor.redact(data))
        return len(data)

    def _deliver(self, data: bytes) -> None:
        if self._echo_fd is not None:
            with contextlib.suppress(BrokenPipeError):  # whoever watched has gone; the log goes on
                _write(self._echo_fd, data)
        if self.lost is None:
            try:
                _write(self._log_fd, data)
            except OSError as error:
                self.lost = str(error)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
