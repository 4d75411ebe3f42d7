"""cgroup: a cgroup v2 of its own for each job, below one that was delegated to the daemon.

    the daemon's own cgroup      a Tree: empty, its controllers enabled for what is below
      supervisor/ or daemon/     the daemon, its nursery and all runners
      job-ID/                    a Leaf: one job and nothing else

A cgroup with controllers enabled takes no process, and so systemd could not start a daemon beside
the running jobs of the one before (status 219/CGROUP). There are two ways out for a unit:

    DelegateSubgroup=supervisor  since systemd 254: the daemon starts in a leaf. Nothing is lost
    ExecStopPost=                before: switch the controllers off as long as there is no daemon,
                                 and say so by RUNNERD_SWITCHES_OFF=1. Limits are set again then

A unit with neither gets leaves without controllers.

Guarantees: the root cgroup, and one that holds anybody else's processes, is left as it is. What
            was begun there and failed is undone. A Leaf is locked (flock) as long as somebody has
            it open, so that a daemon which starts does not remove what an older runner uses.
Errors:     OSError goes up, but for `close`: what it cannot remove, `remove_leftovers` will.
Trust:      a job cannot leave its leaf, unless it runs as the daemon's own user or as root: such a
            one could kill the daemon as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import select
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from .frozen import frozen
from .model import IoShare, Limits
from .processes import DAEMON, SUPERVISOR, cgroup_of

SWITCHES_OFF = "RUNNERD_SWITCHES_OFF"
WANTED = ("cpu", "memory", "pids", "io")
PATIENCE_S = 5.0  # how long a killed process may take to be gone
_PERIOD_US = 100_000
_NO_CONTROLLER = (errno.ENOENT, errno.ENODEV)  # it is off, or went off after the open
_WEIGHTS = {IoShare.IDLE: 10, IoShare.LOW: 50, IoShare.NORMAL: 100, IoShare.HIGH: 500}


@frozen
class Tree:
    """A delegated cgroup: an open directory, its path for people, and what can be limited in it.

    `fleeting`: the controllers are off while there is no daemon, and what was set is lost.
    """

    fd: int
    path: str
    controllers: frozenset[str]
    fleeting: bool


@frozen(kw_only=True)
class Used:
    """What a leaf counted; None where no controller did."""

    cpu_user_s: float
    cpu_system_s: float
    memory_peak_bytes: int | None
    read_bytes: int
    write_bytes: int


class _NotOurs(Exception):
    """Why this cgroup is not for us to divide."""


# --- the daemon's -------------------------------------------------------------------------------


def delegated_tree() -> tuple[Tree | None, str]:
    """Take the cgroup that was delegated to us, and move into a leaf of it; and a line for the log.

    Once, at the daemon's start, before it forks: the process itself moves.
    """
    try:
        tree = _divide(_own_directory())
    except (OSError, _NotOurs) as error:
        return None, f"jobs get no cgroups of their own: {error}"
    usable = ", ".join(sorted(tree.controllers)) or "no controllers"
    if tree.fleeting and not tree.controllers:
        usable += f" (the unit needs DelegateSubgroup={SUPERVISOR}, and systemd 254 for it)"
    return tree, f"each job gets a cgroup of its own below {tree.path}, with {usable}"


def remove_leftovers(tree: Tree) -> None:
    """Remove leaves that are empty. A runner of the daemon before may live in the others."""
    for name in os.listdir(tree.fd):
        if name.startswith("job-"):
            # Somebody is in it, has it open, or was quicker: none of that is for us to change.
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree.fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not _is_populated(fd):
                        _remove(tree, name, fd)
                finally:
                    os.close(fd)


def _own_directory() -> Path:
    """The directory to divide: ours, or the one above if we are in a leaf of it already."""
    directory = cgroup_of("self")
    if directory is None:
        raise _NotOurs("no cgroup v2 of ours is to be seen")
    return directory.parent if directory.name in (SUPERVISOR, DAEMON) else directory


def _divide(directory: Path) -> Tree:
    with contextlib.ExitStack() as undo:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        undo.callback(os.close, fd)
        _check_ours(directory, fd)
        if _read(fd, "cgroup.procs").strip():  # that is us, in the way
            with contextlib.suppress(FileExistsError):  # of the daemon before; its runners live on
                os.mkdir(DAEMON, dir_fd=fd)
                undo.callback(os.rmdir, DAEMON, dir_fd=fd)
            _write(fd, f"{DAEMON}/cgroup.procs", "0")
            undo.callback(_write, fd, "cgroup.procs", "0")
        fleeting = directory.suffix == ".service" and SUPERVISOR not in os.listdir(fd)
        barred = fleeting and os.environ.get(SWITCHES_OFF) != "1"
        controllers = _enable(fd, () if barred else WANTED)
        undo.pop_all()
    return Tree(fd, str(directory), controllers, fleeting)


def _check_ours(directory: Path, fd: int) -> None:
    if "cgroup.events" not in os.listdir(fd):  # the one file that the root does not have
        raise _NotOurs("the daemon runs in the root cgroup")
    # Where systemd rules, it would take back what it did not delegate; Delegate=yes leaves a mark.
    # Others cannot tell us. For them it is enough that everything here works.
    if directory.suffix in (".service", ".scope", ".slice") and os.geteuid() == 0:
        marks = (_mark(fd, "trusted.delegate"), _mark(fd, "user.delegate"))
        if b"1" not in marks:
            raise _NotOurs(f"{directory} is not delegated (systemd: Delegate=yes)")
    strangers = set(_read(fd, "cgroup.procs").split()) - {str(os.getpid())}
    with os.scandir(fd) as entries:
        below = {each.name for each in entries if each.is_dir()}
    # .control is where systemd starts what an ExecReload= names.
    unknown = {
        each for each in below - {SUPERVISOR, DAEMON, ".control"} if not each.startswith("job-")
    }
    if strangers or unknown:
        raise _NotOurs(f"{directory} has other processes or cgroups in it")


def _mark(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:  # there is none, or the kernel keeps none: the same to us
        return None


def _enable(fd: int, wanted: Collection[str]) -> frozenset[str]:
    """Enable the controllers for the leaves, as many as can be; which."""
    offered = [each for each in wanted if each in _read(fd, "cgroup.controllers").split()]
    control = os.open("cgroup.subtree_control", os.O_WRONLY, dir_fd=fd)
    try:
        for each in offered:
            # cpu is refused while there are real-time processes (cgroups(7)), the others may be
            # in use by a version 1 hierarchy. What works is read back.
            with contextlib.suppress(OSError):
                os.write(control, f"+{each}".encode())
    finally:
        os.close(control)
    return frozenset(offered) & frozenset(_read(fd, "cgroup.subtree_control").split())


# --- the runners' -------------------------------------------------------------------------------


@frozen
class Leaf:
    """The cgroup of one job."""

    tree: Tree
    name: str
    fd: int

    @classmethod
    def make(cls, tree: Tree, name: str) -> Leaf:
        """A new one. What is left in an old one of that name is killed."""
        directory = f"job-{name}"
        with contextlib.suppress(FileNotFoundError):
            old = cls(tree, directory, os.open(directory, os.O_DIRECTORY, dir_fd=tree.fd))
            old.close()
        os.mkdir(directory, dir_fd=tree.fd)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree.fd)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return cls(tree, directory, fd)

    def set(self, limits: Limits) -> frozenset[str]:
        """Set all that can be limited here now; the names of what is held: `memory.max` ..."""
        held = set()
        for name, value in _settings(limits):
            with contextlib.suppress(OSError):  # whatever the reason, it is not held
                _write(self.fd, name, value)
                held.add(name)
        return frozenset(held)

    def enter_fd(self) -> int:
        """A descriptor, closed by an exec: the process that writes 0 to it is in the leaf."""
        return os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)

    def kill(self) -> None:
        """Kill all that is in it, in one go. Harmless when it is empty."""
        try:
            _write(self.fd, "cgroup.kill", "1")
        except FileNotFoundError:  # before Linux 5.14
            _kill_each(self.fd)

    def hits(self) -> frozenset[str]:
        """Which of its own limits were hit: `memory`, `processes`."""
        memory, pids = self._figures("memory.events"), self._figures("pids.events")
        found = set()
        if memory.get("oom_kill", 0) and memory.get("oom", 0):  # without oom: the machine was full
            found.add("memory")
        if pids.get("max", 0):
            found.add("processes")
        return frozenset(found)

    def cpu_s(self) -> tuple[float, float]:
        """CPU time of all that ever was in it: user, system."""
        cpu = self._figures("cpu.stat")
        return cpu.get("user_usec", 0) / 1e6, cpu.get("system_usec", 0) / 1e6

    def usage(self) -> Used:
        user_s, system_s = self.cpu_s()
        peak = _read_if_there(self.fd, "memory.peak")  # since Linux 5.19
        io = re.findall(r"\b([rw])bytes=([0-9]+)", _read_if_there(self.fd, "io.stat"))
        return Used(
            cpu_user_s=user_s,
            cpu_system_s=system_s,
            memory_peak_bytes=int(peak) if peak else None,
            read_bytes=sum(int(count) for way, count in io if way == "r"),
            write_bytes=sum(int(count) for way, count in io if way == "w"),
        )

    def close(self) -> None:
        """Kill what is in it and remove it. If that cannot be now, the next daemon will."""
        try:
            with contextlib.suppress(OSError):
                if _is_populated(self.fd):
                    self.kill()
                    _await_empty(self.fd, PATIENCE_S)
                _remove(self.tree, self.name, self.fd)
        finally:
            os.close(self.fd)

    def _figures(self, name: str) -> dict[str, int]:
        words = [line.split() for line in _read_if_there(self.fd, name).splitlines()]
        return {each[0]: int(each[1]) for each in words}


def _settings(limits: Limits) -> Iterator[tuple[str, str]]:
    if limits.memory_bytes is not None:
        yield "memory.swap.max", "0"
        yield "memory.oom.group", "1"
        yield "memory.max", str(limits.memory_bytes)
    if limits.processes is not None:
        yield "pids.max", str(limits.processes)
    if limits.cpu is not None:
        yield "cpu.max", f"{round(limits.cpu * _PERIOD_US)} {_PERIOD_US}"
    if limits.nice is not None:  # that of a process counts inside its cgroup only
        yield "cpu.weight.nice", str(limits.nice)
    if limits.io is not None:
        yield "io.weight", str(_WEIGHTS[limits.io])


# --- files --------------------------------------------------------------------------------------


def _read(dir_fd: int, name: str) -> str:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=dir_fd)) as file:
        return file.read()


def _read_if_there(dir_fd: int, name: str) -> str:
    """The text, or none."""
    try:
        return _read(dir_fd, name)
    except OSError as error:
        if error.errno not in _NO_CONTROLLER:
            raise
        return ""


def _write(dir_fd: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _is_populated(fd: int) -> bool:
    return "populated 1" in _read(fd, "cgroup.events")


def _await_empty(fd: int, within_s: float) -> bool:
    """Whether all of it has ended by then. The kernel tells each change of the file."""
    deadline = time.monotonic() + within_s
    events_fd = os.open("cgroup.events", os.O_RDONLY, dir_fd=fd)
    try:
        poll = select.poll()
        poll.register(events_fd, select.POLLPRI)
        while "populated 1" in os.pread(events_fd, 4096, 0).decode():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            poll.poll(left_s * 1000)
    finally:
        os.close(events_fd)
    return True


def _kill_each(fd: int) -> None:
    """Kill what is in a cgroup, and what that forked meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    while _is_populated(fd) and time.monotonic() < deadline:
        for _, _, _, at in os.fwalk(".", dir_fd=fd):
            for pid in map(int, _read(at, "cgroup.procs").split()):
                if pid > 0:  # 0: not of our namespace; and kill(0) would be ourselves
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        _await_empty(fd, 0.01)


def _remove(tree: Tree, name: str, fd: int) -> None:
    """Remove an empty leaf, with the cgroups that the job may have made in it."""
    for _, names, _, at in os.fwalk(".", topdown=False, dir_fd=fd):
        for each in names:
            os.rmdir(each, dir_fd=at)
    os.rmdir(name, dir_fd=tree.fd)
