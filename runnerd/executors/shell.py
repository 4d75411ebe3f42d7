"""shell: a step as a process of this machine, in its own session and with a clean environment.

`run` is a script for /bin/sh -e, or for the interpreter that its #! line names; `command` is an
argument vector that no shell sees. The script reaches its interpreter as an open file, descriptor
3: on a command line every user of the machine could read it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
import shutil
import signal
from dataclasses import dataclass

from runnerd import child
from runnerd.errors import NotStartable
from runnerd.model import Step
from runnerd.outcome import Exited, Outcome, Signalled, Usage

from . import Place, Running

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SCRIPT_FD = 3
_BLOCK = 512  # the unit of ru_inblock and ru_oublock, getrusage(2)
# What Python ignores for itself, and what the daemon does, a job must not inherit as ignored.
_DEFAULT_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]


class Shell:
    """The executor of that name."""

    def start(self, step: Step, place: Place) -> Running:
        env = environment(step, place)
        argv = list(step.command or ()) if step.run is None else interpreter(step.run)
        plain = place.account.uid == os.geteuid() and place.enter is None
        start = _spawn if plain else _spawn_as
        try:
            with contextlib.ExitStack() as opened:
                null_fd = os.open(os.devnull, os.O_RDONLY)
                opened.callback(os.close, null_fd)
                descriptors = {0: null_fd, 1: place.output_fd, 2: place.output_fd}
                if step.run is not None:
                    descriptors[_SCRIPT_FD] = _script(step.run)
                    opened.callback(os.close, descriptors[_SCRIPT_FD])
                pid = start(argv, env, place, descriptors)
        except FileNotFoundError as error:
            raise _not_found(argv[0], env["PATH"]) from error
        except OSError as error:
            raise NotStartable(f"{argv[0]}: {error.strerror}") from error
        return _Process(pid, _pidfd(pid), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _spawn(argv: list[str], env: dict[str, str], place: Place, descriptors: dict[int, int]) -> int:
    """Start it as ourselves: posix_spawn shares our memory until the exec, which is fastest."""
    os.fchdir(place.work_fd)  # posix_spawn has no working directory of its own
    try:
        return os.posix_spawn(
            _find(argv[0], env["PATH"]),
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, each) for each, fd in descriptors.items()],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    finally:
        os.chdir("/")


def _spawn_as(
    argv: list[str], env: dict[str, str], place: Place, descriptors: dict[int, int]
) -> int:
    """Start it as the job's user; the pipe becomes theirs, so that /dev/stdout can be opened."""
    if place.account.uid != os.geteuid():
        os.fchown(place.output_fd, place.account.uid, place.account.gid)
    return child.start_as(
        place.account,
        argv,
        env,
        work_fd=place.work_fd,
        descriptors=descriptors,
        default_signals=_DEFAULT_SIGNALS,
        enter=place.enter,
    )


def environment(step: Step, place: Place) -> dict[str, str]:
    """A login's environment, the job's own variables, and what runnerd tells it."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": place.account.home,
        "USER": place.account.name,
        "LOGNAME": place.account.name,
        "SHELL": place.account.shell,
        "PWD": f"{place.directory}/work",
        **place.handed_on,
        **step.env,
        **{name: os.fsdecode(value) for name, value in place.secrets.items()},
        "RUNNER_JOB_ID": place.job_id,
        "RUNNER_JOB_DIR": place.directory,
        **place.variables,
    }


def interpreter(script: str) -> list[str]:
    """The argument vector for a script: what its #! line says, split as the kernel does, or sh."""
    path = f"/dev/fd/{_SCRIPT_FD}"
    first = script.partition("\n")[0]
    words = first[2:].strip().split(maxsplit=1) if first.startswith("#!") else []
    return [*words, path] if words else ["/bin/sh", "-e", path]


def _find(name: str, path: str) -> str:
    found = name if "/" in name else shutil.which(name, path=path)
    if found is None:
        raise _not_found(name, path)
    return found


def _not_found(name: str, path: str) -> NotStartable:
    if "/" in name:
        return NotStartable(f"{name}: {os.strerror(errno.ENOENT)}")
    return NotStartable(f"{shlex.quote(name)} is not on the PATH ({path})")


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:  # no descriptors left: a process that nobody can wait for must not run
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise NotStartable(f"cannot watch the process: {error.strerror}") from error


def _script(text: str) -> int:
    fd = os.memfd_create("script", os.MFD_CLOEXEC)
    data = memoryview(text.encode())
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@dataclass(slots=True)
class _Process:
    """A process that leads its own session and process group."""

    pid: int
    _pidfd: int
    _floor_kib: int

    def fileno(self) -> int:
        return self._pidfd

    def signal(self, number: int) -> None:
        # Until conclude() reaps the leader, its number cannot mean anybody else.
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def conclude(self) -> tuple[Outcome, Usage | None]:
        self.signal(signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        os.close(self._pidfd)
        # The kernel counts the memory of the runner, from which the job was spawned, as the job's.
        most = used.ru_maxrss if used.ru_maxrss > self._floor_kib else None
        usage = Usage(
            cpu_user_s=round(used.ru_utime, 3),
            cpu_system_s=round(used.ru_stime, 3),
            max_memory_bytes=None if most is None else most * 1024,
            read_bytes=used.ru_inblock * _BLOCK,
            write_bytes=used.ru_oublock * _BLOCK,
        )
        code = os.waitstatus_to_exitcode(status)
        return (Exited(code) if code >= 0 else Signalled(-code)), usage
