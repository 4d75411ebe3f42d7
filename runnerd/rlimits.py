"""rlimits: what the kernel holds for each process of a job, and what all of them have taken.

Errors: errors.NotStartable before the start; `take` raises OSError only.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotStartable
from .model import Limits

if TYPE_CHECKING:
    from .kin import Kin

_CAP_SYS_NICE, _CAP_SYS_RESOURCE = 23, 24
_AUTOGROUP_TRIES, _AUTOGROUP_PAUSE_S = 20, 0.02


def take(limits: Limits) -> None:
    """Set those of the calling process, before it gives up rights."""
    _take_priorities(limits)
    try:
        _take_rlimits(limits)
    except ValueError as error:  # what setrlimit(2) has against it, or the right is lacking
        raise PermissionError(errno.EPERM, str(error)) from error


def _take_priorities(limits: Limits) -> None:
    nice, io = limits.nice, limits.io
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        _be_nice_as_a_session(nice)
    if io is not None:
        from . import kin  # noqa: PLC0415  # loaded since `check_rights`

        kin.take_io_share(io)


def _take_rlimits(asked: Limits) -> None:
    if asked.cpu_time_s is not None:  # of each process: in case nobody looks
        soft = math.ceil(asked.cpu_time_s)
        resource.setrlimit(resource.RLIMIT_CPU, _within(resource.RLIMIT_CPU, soft, soft + 1))
    if asked.file_size_bytes is not None:
        most = asked.file_size_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, _within(resource.RLIMIT_FSIZE, most, most))
    if asked.open_files is not None:  # last: from here on there may be none left for us
        resource.setrlimit(resource.RLIMIT_NOFILE, (asked.open_files, asked.open_files))


def below(spare: Collection[int | None]) -> list[Kin]:
    """All processes below the calling one but these."""
    from . import kin  # noqa: PLC0415  # see there

    return [each for each in kin.below() if each.pid not in spare]


def cpu_s_of(processes: list[Kin]) -> float:
    """Their own CPU time, and their dead children's."""
    return sum(each.cpu_s() for each in processes)


def memory_of(processes: list[Kin], most: int) -> int:
    """What they have in memory. Pages that they share count once, if that decides anything."""
    used = sum(each.memory_bytes() for each in processes)
    return used if used <= most else sum(each.memory_share_bytes() for each in processes)


def tasks_of(processes: list[Kin]) -> int:
    return sum(each.tasks() for each in processes)


def _within(kind: int, soft: int, hard: int) -> tuple[int, int]:
    """A limit that is no higher than the one already in force, which not everybody may raise."""
    _, most = resource.getrlimit(kind)
    return (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))


def _be_nice_as_a_session(nice: int) -> None:
    """Give the job's session the same priority as the process.

    A session is a group of its own to the scheduler, and between groups only the value of the group
    counts (sched(7), autogroup). In a cgroup with the controller cpu these groups are out of use.
    """
    with contextlib.suppress(OSError):  # a kernel without them, or a /proc that is read only
        fd = os.open("/proc/self/autogroup", os.O_WRONLY)
        for _ in range(_AUTOGROUP_TRIES):
            try:
                os.write(fd, str(nice).encode())
                break
            except BlockingIOError:  # from all ordinary users together it takes ten a second
                time.sleep(_AUTOGROUP_PAUSE_S)
        os.close(fd)


def check_rights(limits: Limits) -> None:
    """Between fork and exec there would only be an error number to tell of these."""
    if limits.io is not None:
        from . import kin  # noqa: F401, PLC0415  # see there; not anew in each process of a job
    if limits.nice is not None and limits.nice < os.nice(0) and not _is_capable(_CAP_SYS_NICE):
        lowest = 20 - resource.getrlimit(resource.RLIMIT_NICE)[0]
        if limits.nice < lowest:
            raise NotStartable(f"nice {limits.nice} is not for runnerd to give: it lacks the right")
    if limits.open_files is not None:
        most = int(Path("/proc/sys/fs/nr_open").read_text())
        if not _is_capable(_CAP_SYS_RESOURCE):
            most, _ = _within(resource.RLIMIT_NOFILE, most, most)
        if limits.open_files > most:
            raise NotStartable(f"open_files {limits.open_files}: runnerd may give {most} at most")


def _is_capable(capability: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> capability & 1)
