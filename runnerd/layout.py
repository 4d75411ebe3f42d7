"""layout: the directories of a spool: made where they are missing, checked where they are there.

A spool that others could tamper with, or that a rename cannot cross, is refused with the remedy.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .disk import DIRECTORY
from .errors import SpoolError


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one kind of directory is made with, and which rights nobody may have in it."""

    names: tuple[str, ...]
    mode: int
    forbidden: int


_STORES = _Kind(("running", "done", "failed"), 0o755, 0o022)
_PRIVATE = _Kind(("outbox",), 0o700, 0o077)
_BOX_NAMES = ("incoming", "control")  # like /var/spool/cron/crontabs: drop, and do not list
_OWN_BOXES, _GROUP_BOXES = _Kind(_BOX_NAMES, 0o700, 0o007), _Kind(_BOX_NAMES, 0o1730, 0o007)


def open_layout(root: Path, *, group: str | None) -> dict[str, int]:
    """A descriptor for each directory by its name, and for the root as `.`. Raises SpoolError.

    Members of the group may drop files; where there is no such group, only our own user may.
    """
    drop_gid = _drop_gid(group)
    fds: dict[str, int] = {}
    with contextlib.ExitStack() as on_error:
        on_error.callback(_close_all, fds)
        try:
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            fds["."] = os.open(root, DIRECTORY)
            device = _check(root, fds["."], forbidden=0o022).st_dev
            for kind in (_STORES, _OWN_BOXES if drop_gid is None else _GROUP_BOXES, _PRIVATE):
                gid = drop_gid if kind is _GROUP_BOXES else None
                for name in kind.names:
                    fds[name] = _open_or_make(name, kind.mode, gid, at=fds["."])
                    status = _check(root / name, fds[name], forbidden=kind.forbidden)
                    if status.st_dev != device:
                        raise SpoolError(
                            f"{root / name} is on another file system than {root}; "
                            "a job moves by rename, so all of a spool must lie on one"
                        )
        except OSError as error:
            raise SpoolError(f"the spool {root} cannot be opened: {error}") from error
        on_error.pop_all()
    return fds


def _close_all(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def _drop_gid(group: str | None) -> int | None:
    """The group's id, if there is such a group and we may hand directories to it."""
    if group is None:
        return None
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        return None
    return gid if os.geteuid() == 0 or gid in os.getgroups() else None


def _open_or_make(name: str, mode: int, gid: int | None, *, at: int) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=at)
    except FileExistsError:
        return os.open(name, DIRECTORY, dir_fd=at)
    fd = os.open(name, DIRECTORY, dir_fd=at)
    if gid is not None:
        os.fchown(fd, -1, gid)
    os.fchmod(fd, mode)
    return fd


def _check(path: Path, fd: int, *, forbidden: int) -> os.stat_result:
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise SpoolError(
            f"{path} belongs to uid {status.st_uid}, the daemon runs as uid {os.geteuid()}; "
            "give it to the daemon's user (chown), or start the daemon as that user"
        )
    if mode & forbidden:
        raise SpoolError(
            f"{path} has mode {mode:04o}, which lets others in where they must not be; "
            f"run: chmod {mode & ~forbidden:04o} {path}"
        )
    if mode & stat.S_IWGRP and not mode & stat.S_ISVTX:
        raise SpoolError(
            f"{path} has mode {mode:04o}: members of its group could remove each other's files; "
            f"run: chmod +t {path}"
        )
    return status
