"""nursery: the clean parent of all runners, and of the courier.

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
from collections.abc import Callable, Mapping
from functools import partial

from . import events
from .processes import COURIER_NAME, RUNNER_NAME

PAUSE_S = 1.0

Serve = Callable[[socket.socket], None]


class Nursery:
    """The daemon's side. `sock` becomes readable if the nursery dies.

    `serve`: what a runner does; `deliver`: what a courier does.
    """

    def __init__(self, serve: Serve, deliver: Serve) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.freeze()  # shared with every runner as long as the collector does not touch it
        self.pid = os.fork()
        if self.pid == 0:
            self.sock.close()
            _end_with(partial(_watch_over, theirs, {RUNNER_NAME: serve, COURIER_NAME: deliver}))
        theirs.close()

    def spawn(self) -> socket.socket:
        """A new runner; our end of its connection. Raises OSError when the nursery is gone."""
        return self._spawn(RUNNER_NAME)

    def spawn_courier(self) -> socket.socket:
        """The same for a courier."""
        return self._spawn(COURIER_NAME)

    def _spawn(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            rights = array.array("i", [theirs.fileno()])
            self.sock.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        return ours

    def close(self) -> None:
        """Let the nursery end. Runners that are busy finish."""
        self.sock.close()
        os.waitpid(self.pid, 0)


def _watch_over(daemon: socket.socket, serve: Mapping[str, Serve]) -> None:
    os.setsid()
    name_process("runnerd-nursery")
    # SIGCHLD: the kernel buries our children. SIGIO: openat's leases, fcntl(2).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    while True:
        data, rights, _, _ = daemon.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        fd = array.array("i", rights[0][2])[0]
        if _fork() == 0:
            daemon.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            name_process(data.decode())
            _end_with(partial(serve[data.decode()], socket.socket(fileno=fd)))
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


def name_process(title: str) -> None:
    """What ps and top show of this process."""
    fd = os.open("/proc/self/comm", os.O_WRONLY)  # each object that is used is a page of our own
    try:
        os.write(fd, title.encode())
    finally:
        os.close(fd)
