"""case: what the doctor examines: a spool, its configuration, and the daemon that serves it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from pathlib import Path

from runnerd.config import Config
from runnerd.configfile import Setup
from runnerd.disk import DIRECTORY
from runnerd.frozen import frozen
from runnerd.processes import lock_holder

from .findings import CannotTell


@frozen(kw_only=True)
class Case:
    """`setup`: None if the configuration is broken, `complaint` says how; `config` is the default
    one then. `uid`: whom the daemon runs as. `pid`: of the daemon, where it can be known; `served`:
    whether there is one, None where that cannot be known. `now`: seconds since the epoch.
    """

    root: Path
    file: Path
    config: Config
    setup: Setup | None
    complaint: str | None
    uid: int
    served: bool | None
    pid: int | None
    now: float

    @property
    def lack(self) -> str:
        """What one needs to see all of it."""
        if self.uid == 0:
            return "needs root"
        with contextlib.suppress(KeyError):
            return f"needs the daemon's user, {pwd.getpwuid(self.uid).pw_name}"
        return f"needs the daemon's user, uid {self.uid}"

    def age(self, since: float) -> str:
        """How long ago that was, in words."""
        return about(self.now - since)

    def insist_on_daemon(self) -> int:
        """The daemon's pid. Raises CannotTell."""
        if self.pid is None:
            raise CannotTell("no daemon is to be seen" if not self.served else "its pid is hidden")
        return self.pid


def about(seconds: float) -> str:
    """A span of time in words, in the largest unit that there are two of."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def owner_of(root: Path) -> int:
    """Whose spool it is; ours, if there is none."""
    with contextlib.suppress(OSError):
        return root.stat().st_uid
    return os.geteuid()


def daemon_of(root: Path) -> tuple[bool | None, int | None]:
    """Whether a daemon serves the spool, and its pid, each if that can be known."""
    outbox = root / "outbox"
    try:
        status = outbox.stat()
        pid = lock_holder(status)
        if pid is not None:
            return True, pid
        fd = os.open(outbox, DIRECTORY)
    except FileNotFoundError:
        return False, None
    except (PermissionError, NotADirectoryError):
        return None, None
    # Not in every case the kernel tells whose lock it is: another namespace, btrfs.
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True, None
    finally:
        os.close(fd)
    return False, None
