"""output: from a job's standard output and error to output.log, byte for byte.

Both streams of a step share one pipe, so the log has them in the order in which they were written.
Where nothing has to look at the bytes the kernel moves them (splice). Where secrets must be hidden,
and where a job runs in the foreground and is copied to our own standard output, we do.

`output.timing` says when: a line `O SECONDS BYTES` for each piece, as script(1) writes its advanced
format, with the seconds since the piece before.

A log that cannot be written (no space) does not hurt the job: its output is thrown away from then
on, and `lost` says why. So is what comes beyond the cap; the log's last line says how much.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Collection

from .disk import Disk
from .redact import Redactor

_PIECE = 1 << 20
_FULL = 1 << 16  # what a pipe holds that nobody has widened
_MUCH, _PIECES = 1 << 13, 16
_BURST_S = 0.01  # pieces that come so close together are one in output.timing


class Log:
    """The log of one attempt at a job. It takes the descriptors over."""

    def __init__(
        self,
        log_fd: int,
        open_timing: Callable[[], int] | None,
        *,
        cap: int | None = None,
        echo_fd: int | None = None,
    ) -> None:
        self._log_fd = log_fd
        self._open_timing = open_timing
        self._timing_fd: int | None = None
        self._cap = cap
        self._echo_fd = echo_fd
        self._null_fd: int | None = None
        self._redactor: Redactor | None = None
        self._splices = echo_fd is None
        self._last = self._since = time.monotonic()
        self._untimed = 0
        self.size = 0
        self.cut = 0
        self.lost: str | None = None

    def close(self) -> None:
        for fd in (self._log_fd, self._timing_fd, self._null_fd):
            if fd is not None:
                os.close(fd)

    def hide(self, secrets: Collection[bytes]) -> None:
        """Keep these out of all that is still to come."""
        if secrets:
            self._redactor = Redactor(secrets)
            self._splices = False

    @property
    def truncated(self) -> bool:
        return self.lost is not None or self.cut > 0

    def take(self, pipe_fd: int) -> int:
        """Move one piece of what a pipe holds; its size, 0 at the end. Raises BlockingIOError."""
        return self._splice(pipe_fd) if self._splices else self._copy(pipe_fd)

    def write(self, data: bytes) -> None:
        """Add bytes that nobody has looked at."""
        self._keep(data if self._redactor is None else self._redactor.redact(data))

    def flush(self) -> None:
        """Add what was kept back because a secret might have followed."""
        if self._redactor is not None:
            self._keep(self._redactor.rest())

    def append(self, other: Log) -> None:
        """Add what another log holds: its secrets are hidden already, and its cut is ours."""
        other.flush()
        self.flush()
        at = 0
        while piece := os.pread(other._log_fd, _PIECE, at):  # one of us
            self._keep(piece)
            at += len(piece)
        self.cut += other.cut
        self.lost = self.lost or other.lost

    def finish(self) -> None:
        """Say at the end what was cut."""
        self.flush()
        if self.cut:
            self._put(f"\n[runnerd: {self.cut} more bytes of output were cut here]\n".encode())
        if self._untimed:
            self._time()

    def sync(self, disk: Disk) -> None:
        """Put the log on disk, as far as it could be written."""
        try:
            if self.size:
                disk.sync(self._log_fd)
        except OSError as error:
            self.lost = str(error)

    def _room(self) -> int:
        return _PIECE if self._cap is None else min(_PIECE, self._cap - self.size)

    def _splice(self, pipe_fd: int) -> int:
        room = 0 if self.lost is not None else self._room()
        flags = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
        try:
            if room > 0:
                moved = os.splice(pipe_fd, self._log_fd, room, flags=flags)
                self._count(moved)
            else:
                moved = os.splice(pipe_fd, self._null(), _PIECE, flags=flags)
                self.cut += moved
        except BlockingIOError:
            raise
        except OSError as error:
            self._splices = False
            if error.errno != errno.EINVAL:  # EINVAL: this file system cannot, so copy
                self.lost = str(error)
            return self._copy(pipe_fd)
        return moved

    def _copy(self, pipe_fd: int) -> int:
        data = os.read(pipe_fd, _PIECE)
        self.write(data)
        return len(data)

    def _keep(self, data: bytes) -> None:
        if self._echo_fd is not None:
            with contextlib.suppress(BrokenPipeError):  # whoever watched has gone; the log goes on
                Disk().append(self._echo_fd, data)
        kept = data if self._cap is None else data[: max(0, self._cap - self.size)]
        self.cut += len(data) - len(kept)
        self._put(kept)

    def _put(self, data: bytes) -> None:
        if self.lost is not None or not data:
            return
        try:
            Disk().append(self._log_fd, data)
        except OSError as error:
            self.lost = str(error)
        else:
            self._count(len(data))

    def _count(self, size: int) -> None:
        if not size:
            return
        self.size += size
        now = time.monotonic()
        if self._untimed and now - self._since >= _BURST_S:
            self._time()
        if not self._untimed:
            self._since = now
        self._untimed += size
        if now - self._last >= _BURST_S:
            self._time()

    def _time(self) -> None:
        """Note when the pieces that are not noted yet began to come."""
        line = f"O {self._since - self._last:.6f} {self._untimed}\n"
        self._last, self._untimed = self._since, 0
        with contextlib.suppress(OSError):  # no room: the log itself is worth more
            if self._open_timing is not None:
                self._timing_fd, self._open_timing = self._open_timing(), None
            if self._timing_fd is not None:
                os.write(self._timing_fd, line.encode())

    def _null(self) -> int:
        if self._null_fd is None:
            self._null_fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return self._null_fd


class Output:
    """The pipe of one step. `write_fd` is for the executor to pass on."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._moved = 0
        self._is_wide = self._has_ended = False
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.read_fd, False)

    def close(self) -> None:
        """Once or more often."""
        self.close_write_end()
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def close_write_end(self) -> None:
        """The step has it now: our own copy would keep the pipe open for ever."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def pump(self) -> bool:
        """Move some of what the pipe holds, if anything. False at the end of the output."""
        moved = _MUCH
        try:
            for _ in range(_PIECES):  # one who writes fast is not asked about each time
                if moved < _MUCH:
                    break
                moved = self._log.take(self.read_fd)
                self._moved += moved
        except BlockingIOError:
            return True
        if moved >= _FULL and not self._is_wide:
            self._is_wide = True  # a job that writes much gets a wider pipe, and fewer wake-ups
            with contextlib.suppress(OSError):  # an ordinary user may have enough of them
                fcntl.fcntl(self.read_fd, fcntl.F_SETPIPE_SZ, _PIECE)
        self._has_ended = moved == 0
        return not self._has_ended

    def drain(self) -> None:
        """Move what is in the pipe now, and do not wait for whoever still holds it open."""
        if not self._has_ended:
            most = self._moved + fcntl.fcntl(self.read_fd, fcntl.F_GETPIPE_SZ)
            before = -1
            while before < self._moved < most:
                before = self._moved
                self.pump()
        self._log.flush()
