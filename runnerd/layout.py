"""layout: the directories of a spool: made where they are missing, checked where they are there.

A spool that others could tamper with, or that a rename cannot cross, is refused with the remedy.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from .disk import DIRECTORY, Disk
from .errors import SpoolError
from .frozen import frozen


@frozen
class Place:
    """One directory: what it is made with, and which rights nobody may have in it."""

    name: str
    mode: int
    forbidden: int
    gid: int | None = None


@frozen
class Unfit:
    """Why a directory cannot be used, and what puts that right. `mode`: the right one, if it is."""

    message: str
    remedy: str
    mode: int | None = None


ROOT = Place(".", 0o755, 0o022)
PRUNING = ".pruning"  # there while filed jobs are removed
_HOLDING = (".", "running", "done", "failed", "outbox")
_BOXES = ("incoming", "control")


def places(group: str | None) -> list[Place]:
    """The directories of a spool, below its root.

    Members of the group may drop files; where there is no such group, only our own user may.
    """
    gid = drop_gid(group)
    # Like /var/spool/cron/crontabs: drop, and do not list.
    boxes = [Place(name, 0o700 if gid is None else 0o1730, 0o007, gid) for name in _BOXES]
    stores = [Place(name, 0o755, 0o022) for name in ("running", "done", "failed")]
    return [*stores, *boxes, Place("outbox", 0o700, 0o077)]


def open_layout(root: Path, *, group: str | None, disk: Disk) -> dict[str, int]:
    """A descriptor for each directory by its name, and for the root as `.`. Raises SpoolError."""
    fds: dict[str, int] = {}
    with contextlib.ExitStack() as on_error:
        on_error.callback(close_all, fds)
        try:
            if not root.is_dir():
                root.mkdir(mode=ROOT.mode, parents=True, exist_ok=True)
            fds["."] = os.open(root, DIRECTORY)
            _insist(root, ROOT, fds["."])
            if os.fstatvfs(fds["."]).f_flag & os.ST_RDONLY:
                raise SpoolError(
                    f"{root} is on a file system that is mounted read-only; "
                    "run: mount -o remount,rw, after whatever made it read-only is put right"
                )
            for place in places(group):
                fds[place.name] = open_or_make(place, disk, at=fds["."])
                if os.fstat(fds[place.name]).st_dev != os.fstat(fds["."]).st_dev:
                    raise SpoolError(f"{root / place.name} {other_file_system(root)}")
                _insist(root / place.name, place, fds[place.name])
        except OSError as error:
            raise SpoolError(f"the spool {root} cannot be opened: {error}") from error
        on_error.pop_all()
    return fds


def follow(root: Path, fds: Mapping[str, int], *, group: str | None, disk: Disk) -> bool:
    """Whether names of an open spool led elsewhere and are followed now: `fds` have changed.

    A drop box may be another directory than before; and what was removed was empty, and is made
    anew. Raises SpoolError if jobs lie in a directory that is not in its place any more.
    """
    elsewhere = [name for name in _HOLDING if not _is(root, name, fds[name])]
    for name in elsewhere:
        if name == "." or os.fstat(fds[name]).st_nlink:
            raise SpoolError(
                f"{root / name} is not the directory any more that runnerd works in; put that one "
                "back (mount it, rename it), or restart runnerd to work in what is there now"
            )
    if not elsewhere and all(_is(root, name, fds[name]) for name in _BOXES):
        return False
    fresh = open_layout(root, group=group, disk=disk)
    for name in (*elsewhere, *_BOXES):
        os.dup2(fresh[name], fds[name], inheritable=False)
    close_all(fresh)
    return True


def _is(root: Path, name: str, fd: int) -> bool:
    path = root if name == "." else f"{root}/{name}"  # at each look: without an object for each
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except (FileNotFoundError, NotADirectoryError):
        return False


def other_file_system(root: Path) -> str:
    return (
        f"is on another file system than {root}; "
        "a job moves by rename, so all of a spool must lie on one"
    )


def close_all(fds: Mapping[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def drop_gid(group: str | None) -> int | None:
    """The group's id, if there is such a group and we may hand directories to it."""
    if group is None:
        return None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        return None
    return gid if os.geteuid() == 0 or gid in os.getgroups() else None


def open_or_make(place: Place, disk: Disk, *, at: int) -> int:
    """A descriptor for one directory, which is made if it is missing, by us or somebody else."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(place.name, DIRECTORY, dir_fd=at)
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            _make(place, disk, at=at)


def _make(place: Place, disk: Disk, *, at: int) -> None:
    """Make a directory. Its name shows when those may use it who shall."""
    new = f".{place.name}.new"
    with contextlib.suppress(FileNotFoundError):
        disk.rmdir(new, at=at)  # left by one who died here
    fd = disk.mkdir(new, 0o700, at=at)
    try:
        if place.gid is not None:
            disk.give(fd, -1, place.gid)
        os.fchmod(fd, place.mode)
        disk.move_new(new, place.name, at=at, to=at)
    finally:
        os.close(fd)


def _insist(path: Path, place: Place, fd: int) -> None:
    unfit = unfit_for(place, os.fstat(fd), path)
    if unfit is not None:
        raise SpoolError(f"{path} {unfit.message}; {unfit.remedy}")


def unfit_for(
    place: Place, status: os.stat_result, path: Path, *, uid: int | None = None
) -> Unfit | None:
    """What speaks against using this directory, the worst first. `uid`: of the daemon, or ours."""
    mode = stat.S_IMODE(status.st_mode)
    uid = os.geteuid() if uid is None else uid
    if status.st_uid != uid:
        return Unfit(
            f"belongs to uid {status.st_uid}, the daemon runs as uid {uid}",
            "give it to the daemon's user (chown), or start the daemon as that user",
        )
    if mode & place.forbidden:
        right = mode & ~place.forbidden
        return Unfit(
            f"has mode {mode:04o}, which lets others in where they must not be",
            f"run: chmod {right:04o} {path}",
            right,
        )
    if mode & stat.S_IWGRP and not mode & stat.S_ISVTX:
        return Unfit(
            f"has mode {mode:04o}: members of its group could remove each other's files",
            f"run: chmod +t {path}",
            mode | stat.S_ISVTX,
        )
    return None
