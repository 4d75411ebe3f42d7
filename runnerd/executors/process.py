"""process: start a program of this machine as the job's user, in a session of its own.

For executors whose steps are processes here: the shell, programs in any language, ssh, and whatever
a plugin starts. Texts and secrets reach such a program as open files (`memfd`) or as variables: on
a command line every user of the machine could read them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from runnerd import child
from runnerd.errors import NotStartable
from runnerd.model import Step
from runnerd.outcome import Exited, Outcome, Signalled, Usage

from . import Place

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUT_OF_THE_WAY = 10  # above the descriptors that a program gets
_BLOCK = 512  # the unit of ru_inblock and ru_oublock, getrusage(2)
# What Python ignores for itself, and what the daemon does, a job must not inherit as ignored.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def login(place: Place) -> dict[str, str]:
    """A login's environment."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": place.account.home,
        "USER": place.account.name,
        "LOGNAME": place.account.name,
        "SHELL": place.account.shell,
        "PWD": f"{place.directory}/work",
    }


def own(step: Step, place: Place) -> dict[str, str]:
    """The variables that are of the job: its own, those handed on to it, and its secrets."""
    return {
        **place.handed_on,
        **step.env,
        **{name: os.fsdecode(value) for name, value in place.secrets.items()},
    }


def told(place: Place) -> dict[str, str]:
    """What runnerd tells it. What an interrupted job left running is found by these."""
    return {
        "RUNNER_JOB_ID": place.job_id,
        "RUNNER_JOB_DIR": place.directory,
        **place.variables,
    }


def environment(step: Step, place: Place) -> dict[str, str]:
    """All of it, as a shell job has it."""
    return {**login(place), **own(step, place), **told(place)}


def start(
    argv: Sequence[str],
    env: Mapping[str, str],
    place: Place,
    files: Mapping[int, int] | None = None,
    *,
    meaning: Callable[[Outcome], Outcome] = lambda outcome: outcome,
) -> Process:
    """Start a program in the job's work/, behind its limits. Raises errors.NotStartable.

    `files`: descriptors that it gets beside its output, by the number that it sees; they stay the
    caller's. Without one for 0 it has no input. `meaning`: what its end is to be called.
    """
    plain = place.account.uid == os.geteuid() and place.enter is None
    descriptors = {0: _null_fd(), 1: place.output_fd, 2: place.output_fd}
    opened = []
    try:
        for number, fd in (files or {}).items():
            # Out of the way of the numbers that it gets: one would cover another.
            descriptors[number] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
            opened.append(descriptors[number])
        pid = (_spawn if plain else _spawn_as)(argv, env, place, descriptors)
    except FileNotFoundError as error:
        raise _not_found(argv[0], env["PATH"]) from error
    except OSError as error:
        raise NotStartable(f"{argv[0]}: {error.strerror}") from error
    finally:
        for fd in opened:
            os.close(fd)
    floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Process(pid, pidfd_of(pid), floor_kib, meaning)


@contextlib.contextmanager
def memfd(data: bytes, place: Place) -> Iterator[int]:
    """Bytes as an open file that nobody but the job's user (and root) can open again.

    Raises errors.NotStartable.
    """
    with contextlib.ExitStack() as opened:
        try:
            fd = os.memfd_create("runnerd", os.MFD_CLOEXEC)
            opened.callback(os.close, fd)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.lseek(fd, 0, os.SEEK_SET)
            os.fchmod(fd, 0o400)
            if place.account.uid != os.geteuid():
                os.fchown(fd, place.account.uid, place.account.gid)
        except OSError as error:
            raise NotStartable(f"no room to hand it over: {error.strerror}") from error
        yield fd


@functools.cache
def _null_fd() -> int:
    """No input, for all that this process starts."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str], place: Place, descriptors: Mapping[int, int]
) -> int:
    """Start it as ourselves: posix_spawn shares our memory until the exec, which is fastest."""
    os.fchdir(place.work_fd)  # posix_spawn has no working directory of its own
    try:
        return os.posix_spawn(
            _find(argv[0], env["PATH"]),
            list(argv),
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, each) for each, fd in descriptors.items()],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )
    finally:
        os.chdir("/")


def _spawn_as(
    argv: Sequence[str], env: Mapping[str, str], place: Place, descriptors: Mapping[int, int]
) -> int:
    """Start it as the job's user; the pipe becomes theirs, so that /dev/stdout can be opened."""
    if place.account.uid != os.geteuid():
        os.fchown(place.output_fd, place.account.uid, place.account.gid)
    if place.enter is None and _has_plain_signals():
        return _spawn_in_c(argv, env, place, descriptors)
    return child.start_as(
        place.account,
        argv,
        env,
        work_fd=place.work_fd,
        descriptors=descriptors,
        default_signals=_DEFAULT_SIGNALS,
        enter=place.enter,
    )


def _has_plain_signals() -> bool:
    """Whether a job would inherit no signal as ignored, but for those that subprocess minds."""
    minded = (signal.SIGPIPE, signal.SIGXFSZ)
    numbers = (each for each in _DEFAULT_SIGNALS if each not in minded)
    ignored = any(signal.getsignal(each) is signal.SIG_IGN for each in numbers)
    return not ignored and not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _spawn_in_c(
    argv: Sequence[str], env: Mapping[str, str], place: Place, descriptors: Mapping[int, int]
) -> int:
    """With nothing of Python between fork and exec: it takes half of the time."""
    others = {number: fd for number, fd in descriptors.items() if number > 2}
    os.fchdir(place.work_fd)
    try:
        with _numbered(others):
            process = subprocess.Popen(
                argv,
                env=env,
                stdin=descriptors[0],
                stdout=descriptors[1],
                stderr=descriptors[2],
                pass_fds=tuple(others),
                start_new_session=True,
                user=place.account.uid,
                group=place.account.gid,
                extra_groups=place.account.groups,
            )
    finally:
        os.chdir("/")
    process.returncode = 0  # it is ours to wait for, and no concern of the object's any more
    return process.pid


@contextlib.contextmanager
def _numbered(descriptors: Mapping[int, int]) -> Iterator[None]:
    """Have our descriptors under these numbers for a moment; what had them has them again then."""
    with contextlib.ExitStack() as undo:
        for number, fd in descriptors.items():
            try:
                kept_fd = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
            except OSError:  # it is free
                undo.callback(os.close, number)
            else:
                undo.callback(os.close, kept_fd)
                undo.callback(os.dup2, kept_fd, number, inheritable=False)
            os.dup2(fd, number)
        yield


def _find(name: str, path: str) -> str:
    if "/" in name:
        return name
    for each in path.split(":"):
        file = f"{each}/{name}" if each else name  # "" is the directory that it starts in
        if os.access(file, os.X_OK) and not os.path.isdir(file):  # noqa: PTH112
            return file
    raise _not_found(name, path)


def _not_found(name: str, path: str) -> NotStartable:
    if "/" in name:
        return NotStartable(f"{name}: {os.strerror(errno.ENOENT)}")
    return NotStartable(f"{shlex.quote(name)} is not on the PATH ({path})")


def pidfd_of(pid: int, kill: Callable[[int, int], None] = os.killpg) -> int:
    """A descriptor that tells the end of our child. Raises NotStartable, with the child ended."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:  # no descriptors left: a process that nobody can wait for must not run
        kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise NotStartable(f"cannot watch the process: {error.strerror}") from error


@dataclass(slots=True)
class Process:
    """A process that leads its own session and process group."""

    pid: int
    _pidfd: int
    _floor_kib: int
    _meaning: Callable[[Outcome], Outcome]

    def fileno(self) -> int:
        return self._pidfd

    def apart_s(self) -> float:
        return 0.0

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
        return self._meaning(Exited(code) if code >= 0 else Signalled(-code)), usage
