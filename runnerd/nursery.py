"""nursery: the clean parent of all runners.

Forked from the daemon before it has a thread, and holding nothing but the spool's directories, it
forks a runner for each socket that the daemon sends. So a runner starts in milliseconds, shares its
memory with the others, and never inherits a half-locked library from a threaded process.

The nursery ends with the daemon. Runners do not: they have their own session, ignore the signals
that end daemons, and leave when their socket is closed and their job is filed.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import events

PAUSE_S = 1.0

Serve = Callable[[socket.socket], None]


class Nursery:
    """The daemon's side. `sock` becomes readable if the nursery dies."""

    def __init__(self, serve: Serve) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()  # shared with every runner as long as the collector does not touch it
        self.pid = os.fork()
        if self.pid == 0:
            self.sock.close()
            _end_with(partial(_watch_over, theirs, serve))
        theirs.close()

    def spawn(self) -> socket.socket:
        """A new runner; our end of its connection. Raises OSError when the nursery is gone."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            rights = array.array("i", [theirs.fileno()])
            self.sock.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        return ours

    def close(self) -> None:
        """Let the nursery end. Runners that are busy finish."""
        self.sock.close()
        os.waitpid(self.pid, 0)


def _watch_over(daemon: socket.socket, serve: Serve) -> None:
    os.setsid()
    _name("runnerd-nursery")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)  # SIGCHLD: the kernel buries our runners
    while True:
        data, rights, _, _ = daemon.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        fd = array.array("i", rights[0][2])[0]
        if _fork() == 0:
            daemon.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _name("runnerd-runner")
            _end_with(partial(serve, socket.socket(fileno=fd)))
        os.close(fd)


def _fork() -> int:
    """Fork, as soon as the machine can. A job that was handed over meanwhile keeps its lock."""
    said = False
    while True:
        try:
            return os.fork()
        except OSError as error:
            if not said:
                events.log(events.RunnerWaits(why=str(error)))
            said = True
            time.sleep(PAUSE_S)


def _end_with(work: Callable[[], None]) -> None:
    """Do the work and end the process, whatever happens: the one handler of each such process."""
    status = 0
    try:
        work()
    except Exception as error:  # noqa: BLE001  # our own fault: say so, end; the daemon sorts it out
        events.log_crash(error)
        status = 70
    finally:
        os._exit(status)


def _name(title: str) -> None:
    Path("/proc/self/comm").write_text(title, "ascii")  # what ps and top show
