"""check_spool: what the doctor looks at of a spool, beside the daemon that may serve it.

Nothing is changed but for one request, which a living daemon takes away. What is damaged in filed
jobs is for fsck: here only the last ones are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import itertools
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from runnerd import api, ids, layout, traces
from runnerd.control import Verb, read_request
from runnerd.controlbox import PAUSED
from runnerd.disk import DIRECTORY, Disk
from runnerd.errors import RunnerdError
from runnerd.model import State
from runnerd.outbox import Outbox
from runnerd.units import in_words, size_in_words

from .case import Case
from .findings import CannotTell, Finding, found

_MOST = 10  # findings of one kind that are told one by one
_LAST = 100  # filed jobs whose results are read
_OLD_S = 3600.0  # what was begun and not dropped by then will not be
_SOON_S = 60.0  # by then the daemon has looked at whatever came
_LATE_S = 3600.0
_LOOK_AGAIN_S = 0.02
_GONE_BYTES, _GONE_INODES, _LOW = 16 << 20, 64, 0.05
_STAGED = (".tmp", ".part", ".new", ".swp", "~")


# --- its directories ----------------------------------------------------------------------------


def directories(case: Case) -> Iterator[Finding]:
    """Are they as runnerd makes them?"""
    try:
        root = case.root.stat()
    except FileNotFoundError:
        yield found("no-spool", path=case.root)
        return
    if os.statvfs(case.root).f_flag & os.ST_RDONLY:
        yield found("read-only", path=case.root)
    places = layout.places(case.config.group)
    for place in (layout.ROOT, *places):
        path = case.root if place is layout.ROOT else case.root / place.name
        try:
            status = path.lstat()
        except FileNotFoundError:
            yield found("place-missing", path=path)
            continue
        if not stat.S_ISDIR(status.st_mode):
            message, remedy = "is no directory", "stop runnerd, then: runnerctl fsck --repair"
            yield found("place-unfit", path=path, message=message, remedy=remedy)
            continue
        unfit = layout.unfit_for(place, status, path, uid=case.uid)
        if unfit is not None:
            yield found("place-unfit", path=path, message=unfit.message, remedy=unfit.remedy)
        if status.st_dev != root.st_dev:
            yield found("other-device", path=path, message=layout.other_file_system(case.root))
    yield from _drop_boxes(case)


def _drop_boxes(case: Case) -> Iterator[Finding]:
    """Can the members of the group drop?"""
    group = case.config.group
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        if case.uid == 0:
            yield found("no-group", group=group)
        return
    if case.uid != 0 and (os.geteuid() != case.uid or layout.drop_gid(group) is None):
        return  # a daemon of an ordinary user, for that user
    for name in ("incoming", "control"):
        path = case.root / name
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if status.st_gid != gid or status.st_mode & 0o030 != 0o030:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                there = status.st_gid
                yield found("drop-shut", path=path, mode=mode, gid=there, group=group, right="1730")


def space(case: Case) -> Iterator[Finding]:
    """Is there room, for bytes and for files?"""
    room = os.statvfs(case.root)
    free = (room.f_bfree if case.uid == 0 else room.f_bavail) * room.f_frsize
    total = room.f_blocks * room.f_frsize
    figures = {"path": case.root, "free": _rounded(free), "total": _rounded(total)}
    if free < _GONE_BYTES:
        yield found("space-gone", **figures)
    elif free < _LOW * total:
        yield found("space-low", **figures)
    inodes = room.f_ffree if case.uid == 0 else room.f_favail
    figures = {"path": case.root, "free": inodes, "total": room.f_files}
    if room.f_files == 0:
        return  # a file system that has them as it needs them
    if inodes < _GONE_INODES:
        yield found("inodes-gone", **figures)
    elif inodes < _LOW * room.f_files:
        yield found("inodes-low", **figures)


def _rounded(size: int) -> str:
    unit = next((each for each in (1 << 30, 1 << 20, 1 << 10) if size >= each), 1)
    return size_in_words(size // unit * unit)


# --- the daemon ---------------------------------------------------------------------------------


def daemon(case: Case) -> Iterator[Finding]:
    """Does one serve, does it answer, does it start jobs?"""
    with contextlib.suppress(FileNotFoundError):
        yield found("paused", age=case.age((case.root / PAUSED).stat().st_mtime))
    if case.served is None:
        raise CannotTell(case.lack)
    if not case.served:
        yield found("not-served", path=case.root)
        return
    halted = _halted(case)
    if halted is not None:
        yield found("daemon-halted", pid=case.pid, how=halted)
        return
    why = _degraded(case)
    if why is not None:
        yield found("degraded", why=why)
    yield from _ping(case)


def _halted(case: Case) -> str | None:
    """How the daemon's process was brought to a stop, if it was."""
    if case.pid is None:
        return None
    try:
        status = psutil.Process(case.pid).status()
    except psutil.Error:
        return None
    return status if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP) else None


def _degraded(case: Case) -> str | None:
    """Why the daemon takes no jobs, as it has told systemd or Prometheus."""
    told = re.search(r"\d+ running, \d+ queued.*degraded: (.*)", _status_text(case))
    if told is not None:
        return told[1]
    if case.config.metrics.file is not None:
        with contextlib.suppress(OSError):
            text = Path(case.config.metrics.file).read_text("utf-8", "replace")
            if re.search(r"^runnerd_degraded 1", text, re.MULTILINE):
                return "see its log for what is wrong"
    return None


def _status_text(case: Case) -> str:
    """What the daemon's unit shows as its status; nothing where it is of no unit."""
    if case.pid is None:
        return ""
    cgroups = Path(f"/proc/{case.pid}/cgroup").read_text("utf-8", "replace")
    units = re.findall(r"/([^/\n]+\.service)(?=/|$)", cgroups, re.MULTILINE)
    if not units:
        return ""
    whose = ["--user"] if units[0].startswith("user@") and len(units) > 1 else []
    command = ["systemctl", *whose, "show", "--property=StatusText", "--value", "--", units[-1]]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
        return done.stdout
    return ""


def _ping(case: Case) -> Iterator[Finding]:
    """Ask for a sign of life: a request that the daemon only takes away."""
    path = case.root / "control" / Verb.PING
    try:
        api.Spool(case.root).request(Verb.PING)
    except RunnerdError as error:
        if isinstance(error.__cause__, PermissionError):
            raise CannotTell(f"whether it answers: needs group {case.config.group}") from None
        yield found("cannot-ask", why=error)
        return
    patience_s = 2 * case.config.rescan_s + 2
    deadline = time.monotonic() + patience_s
    while os.path.lexists(path):
        if time.monotonic() >= deadline:  # it stays: a daemon that is well again takes it
            yield found("no-answer", patience=in_words(patience_s))
            return
        time.sleep(_LOOK_AGAIN_S)


# --- what lies in it ----------------------------------------------------------------------------


def incoming(case: Case) -> Iterator[Finding]:
    """What is no job, was begun and forgotten, or cannot be taken?"""
    return _few(_in_incoming(case))


def _in_incoming(case: Case) -> Iterator[Finding]:
    for path, status in _entries(case.root / "incoming"):
        settled = case.now - status.st_ctime > _SOON_S
        is_directory = stat.S_ISDIR(status.st_mode)
        if path.name.startswith(".") or path.name.endswith(_STAGED):
            yield from _leftover(case, path, status)
        elif is_directory and path.is_mount():
            yield found("file-stuck", path=path, what="a mount point")
        elif is_directory and not path.name.endswith(ids.SUFFIXES):
            has_job = any((path / name).exists() for name in ids.JOB_FILES)
            if not has_job:  # the start of a bundle
                yield from _leftover(case, path, status)
        elif not ids.is_job_file(path.name):
            yield found("stray", path=path)
        elif case.served and settled and not is_directory and not stat.S_ISREG(status.st_mode):
            yield found("file-stuck", path=path, what="no plain file")


def control(case: Case) -> Iterator[Finding]:
    """What asks for nothing, or was not answered?"""
    return _few(_in_control(case))


def _in_control(case: Case) -> Iterator[Finding]:
    for path, status in _entries(case.root / "control"):
        if path.name.startswith("."):
            yield from _leftover(case, path, status)
        elif read_request(path.name, status.st_uid) is None:
            yield found("request-stray", path=path)
        elif case.served and case.now - status.st_ctime > _SOON_S:
            yield found("request-stuck", path=path, age=case.age(status.st_ctime))


def _leftover(case: Case, path: Path, status: os.stat_result) -> Iterator[Finding]:
    if case.now - status.st_mtime > _OLD_S:
        yield found("leftover", path=path, age=case.age(status.st_mtime), uid=status.st_uid)


def _entries(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for name in sorted(os.listdir(directory)):
        with contextlib.suppress(FileNotFoundError):  # taken meanwhile
            yield directory / name, (directory / name).lstat()


def _few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Of each kind the first ones, and how many more there are."""
    counts: dict[str, int] = {}
    for each in findings:
        counts[each.word] = counts.get(each.word, 0) + 1
        if counts[each.word] <= _MOST:
            yield each
    for word, count in counts.items():
        if count > _MOST:
            yield found("more", count=count - _MOST, kind=word)


# --- jobs ---------------------------------------------------------------------------------------


def jobs(case: Case) -> Iterator[Finding]:
    """Is each running job looked after, and are the results of the last ones whole?"""
    running = case.root / "running"
    unattended = (path for path in sorted(running.iterdir()) if _is_unattended(case, path))
    word = "job-unattended" if case.served else "job-left"
    yield from _few(found(word, path=path, id=path.name) for path in unattended)
    yield from _few(_broken_results(case))


def _is_unattended(case: Case, path: Path) -> bool:
    """Whether nobody holds the job's lock, though it does not wait for its next attempt."""
    try:
        if case.served and case.now - path.lstat().st_ctime < _SOON_S:
            return False  # the daemon is about to
        dir_fd = os.open(path, DIRECTORY)
    except FileNotFoundError:
        return False  # filed meanwhile
    except NotADirectoryError:
        return True
    try:
        lock_fd = traces.open_claim(dir_fd)
    finally:
        os.close(dir_fd)
    if lock_fd is None:
        return True
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as others do who only look: debts
        waits = traces.read_claim(lock_fd).retry_at is not None
    except BlockingIOError:
        return False
    finally:
        os.close(lock_fd)
    return not waits or not case.served


def _broken_results(case: Case) -> Iterator[Finding]:
    spool = api.Spool(case.root)
    for state in (State.DONE, State.FAILED):
        for job in spool.jobs(state, limit=_LAST):
            try:
                _ = job.result
            except RunnerdError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise CannotTell(case.lack) from None
                if not isinstance(error.__cause__, FileNotFoundError) or job.state is state:
                    yield found("result-broken", why=error)


def callbacks(case: Case) -> Iterator[Finding]:
    """Are any late, given up, or damaged?"""
    path = case.root / "outbox"
    fd = os.open(path, DIRECTORY)
    try:
        outbox = Outbox(Disk(), fd)
        waiting, dead = list(outbox.names()), sum(1 for _ in outbox.dead_names())
        oldest = min(itertools.chain(_times(waiting, fd), [case.now]))
        damaged = sorted(name for name in os.listdir(fd) if ".damaged" in name)
    finally:
        os.close(fd)
    if case.now - oldest > _LATE_S:
        yield found("callbacks-late", count=len(waiting), age=case.age(oldest))
    if dead:
        yield found("dead-letters", count=dead)
    yield from _few(found("entry-damaged", path=path / name) for name in damaged)


def _times(names: Iterable[object], fd: int) -> Iterator[float]:
    """When they were written."""
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
            yield os.stat(str(name), dir_fd=fd, follow_symlinks=False).st_mtime
