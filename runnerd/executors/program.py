"""program: executors in any language: executables in a directory of their own.

    NAME describe          prints what it is and which options it takes, as JSON (description)
    NAME run [ARGUMENT...] runs one step. It is started as a shell job's program would be: as the
                           job's user, in work/, with the same variables, limits and supervision

On standard input `run` finds one JSON document with all of the step; what a shell cannot take from
that it has as well: each option as $RUNNER_OPTION_NAME, the script as descriptor 3, the command as
its arguments. Its output is the job's, its exit status the result; 125 says that not the job but
the executor failed. The page for authors is etc/executors/README.md.

Trust: what others than root and the daemon's user could have written is never run. `describe` runs
       without rights where the daemon is root, in a clean environment, for a short while.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import stat
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from runnerd import records
from runnerd.catalogue import unfit
from runnerd.configfile import distrust
from runnerd.errors import NotStartable, RunnerdError
from runnerd.kinds import LONGEST_ARGUMENT
from runnerd.model import Step
from runnerd.outcome import Exited, Failed, Outcome
from runnerd.shapes import Record

from . import Executor, Place, Running
from .description import PROTOCOL, Description, read_description
from .process import PATH, environment, memfd, own, start
from .shell import SCRIPT_FD

TROUBLE = 125  # as of env(1), nice(1), timeout(1) and docker
DESCRIBE_S = 5.0
LARGEST = 64 * 1024  # bytes of a description
_NOBODY = 65534


class Unusable(Exception):
    """Why a program is left out."""


@dataclass(slots=True)
class Program(Executor):
    """The executor of that name."""

    directory: Path
    name: str
    options: Record | None = None

    def start(self, step: Step, place: Place) -> Running:
        path = self.directory / self.name
        try:
            check(path)
        except Unusable as why:
            raise NotStartable(f"the executor {self.name} cannot be used: {why}") from None
        env = {**environment(step, place), **_variables(step)}
        argv = [str(path), "run", *(step.command or ())]
        with contextlib.ExitStack() as opened:
            files = {0: opened.enter_context(memfd(document(step, place), place))}
            if step.run is not None:
                files[SCRIPT_FD] = opened.enter_context(memfd(step.run.encode(), place))
            return start(argv, env, place, files, meaning=self._meaning)

    def _meaning(self, outcome: Outcome) -> Outcome:
        if outcome == Exited(TROUBLE):
            why = f"the executor {self.name} failed (status {TROUBLE}); its output says why"
            return Failed(why)
        return outcome


def document(step: Step, place: Place) -> bytes:
    """What a program reads: one line of JSON, in ASCII.

    A value that is no UTF-8, which only a secret can be, it finds in its environment alone.
    """
    account = place.account
    return records.dumps(
        {
            "protocol": PROTOCOL,
            "job": {
                "id": place.job_id,
                "attempt": place.attempt,
                "submitter": place.variables.get("RUNNER_SUBMITTER"),
            },
            "step": {"id": step.id, "name": step.name},
            "run": step.run,
            "command": step.command,
            "options": step.options or {},
            "env": {name: value for name, value in own(step, place).items() if _is_text(value)},
            "secrets": sorted(place.secrets),
            "timeout_s": step.timeout_s,
            "limits": place.limits,
            "user": {
                "name": account.name,
                "uid": account.uid,
                "gid": account.gid,
                "home": account.home,
            },
            "paths": {
                "job": place.directory,
                "work": f"{place.directory}/work",
                "output": place.variables.get("RUNNER_OUTPUT"),
                "progress": place.variables.get("RUNNER_PROGRESS"),
            },
        }
    )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _variables(step: Step) -> dict[str, str]:
    """The options for those who read no JSON; of a list, each value is a line.

    One that is too long for a variable would keep the program from starting.
    """
    found = {}
    for name, value in (step.options or {}).items():
        text = "\n".join(map(_word, value if isinstance(value, list) else [value]))
        if len(text.encode()) <= LONGEST_ARGUMENT:
            found[f"RUNNER_OPTION_{name.upper()}"] = text
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# --- which there are ----------------------------------------------------------------------------


def describe_all(
    directory: Path, taken: Collection[str]
) -> tuple[dict[str, Description], dict[str, str]]:
    """What all programs in the directory say of themselves, and why others cannot be used.

    All are asked at once, so it takes `DESCRIBE_S` at most, whatever they do.
    """
    broken: dict[str, str] = {}
    try:
        names = sorted(each for each in os.listdir(directory) if not _is_passed_over(each))
    except FileNotFoundError:
        return {}, broken
    except OSError as error:
        return {}, {str(directory): error.strerror or str(error)}
    good = []
    for name in names:
        try:
            check(directory / name)
            if name in taken:
                raise Unusable("there is another executor of that name")
            good.append(name)
        except Unusable as why:
            broken[name] = str(why)
    described: dict[str, Description] = {}
    for name, answer in _ask(directory, good).items():
        if isinstance(answer, str):
            broken[name] = answer
            continue
        try:
            described[name] = read_description(answer)
        except ValueError as error:
            broken[name] = str(error)
    return described, broken


def _is_passed_over(name: str) -> bool:
    """A README.md, or the backup of an editor or of a package manager."""
    return "." in name or "~" in name


def check(path: Path) -> None:
    """Refuse what is no program, or could have been written by somebody else."""
    why = unfit(path.name)
    if why is not None:
        raise Unusable(why)
    try:
        distrust(path.parent.stat(), path.parent)
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("it is no plain file")
        distrust(status, path)
    except OSError as error:
        raise Unusable(error.strerror or str(error)) from None
    except RunnerdError as error:
        raise Unusable(str(error)) from None
    if not status.st_mode & 0o111:
        raise Unusable(f"it is not executable; run: chmod 0755 {path}")


@dataclass(slots=True)
class _Asked:
    process: subprocess.Popen[bytes]
    pidfd: int
    output_fd: int
    errors_fd: int


def _ask(directory: Path, names: Collection[str]) -> Mapping[str, bytes | str]:
    """What each says to `describe`, or a sentence on why that is of no use."""
    if not names:
        return {}
    from runnerd import kin  # noqa: PLC0415  # see there

    answers: dict[str, bytes | str] = {}
    mark = f"{directory}/describe-{os.getpid()}"  # by which what they leave behind is found
    deadline = time.monotonic() + DESCRIBE_S
    with contextlib.ExitStack() as opened:
        asked = {}
        for name in names:
            try:
                asked[name] = _start(directory / name, mark, opened)
            except OSError as error:
                answers[name] = f"it cannot be started: {error.strerror}"
        waiting = poll()
        for each in asked.values():
            waiting.register(each.pidfd, POLLIN)
        open_fds = {each.pidfd for each in asked.values()}
        while open_fds and (left := deadline - time.monotonic()) > 0:
            for fd, _ in waiting.poll(left * 1000):
                waiting.unregister(fd)
                open_fds.discard(fd)
        late = {name for name, each in asked.items() if each.pidfd in open_fds}
        for each in asked.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.process.pid, signal.SIGKILL)
        kin.end_leftovers(mark)
        for name, each in asked.items():
            code = each.process.wait()
            answers[name] = _answer(each, code, late=name in late)
    return answers


def _start(path: Path, mark: str, opened: contextlib.ExitStack) -> _Asked:
    output_fd, errors_fd = _bounded(opened), _bounded(opened)
    rights: dict[str, Any] = {}
    if os.geteuid() == 0:
        try:
            nobody = pwd.getpwnam("nobody")
            rights = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        except KeyError:
            rights = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
    process = subprocess.Popen(
        [path, "describe"],
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=errors_fd,
        cwd="/",
        env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/", "RUNNER_JOB_DIR": mark},
        start_new_session=True,
        **rights,
    )
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise
    opened.callback(os.close, pidfd)
    return _Asked(process, pidfd, output_fd, errors_fd)


def _bounded(opened: contextlib.ExitStack) -> int:
    """A file in memory that cannot grow beyond what a description may have; the rest is zeros."""
    fd = os.memfd_create("describe", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    opened.callback(os.close, fd)
    os.ftruncate(fd, LARGEST)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return fd


def _answer(asked: _Asked, code: int, *, late: bool) -> bytes | str:
    output, errors = (
        os.pread(fd, LARGEST, 0).rstrip(b"\0") for fd in (asked.output_fd, asked.errors_fd)
    )
    if len(output) == LARGEST:
        return f"`describe` prints {LARGEST // 1024} KiB or more"
    if late:
        return f"`describe` did not end within {DESCRIBE_S:g} s"
    if code != 0:
        first = errors.decode("utf-8", "replace").strip().partition("\n")[0][:200]
        how = f"exited with status {code}" if code > 0 else f"was ended by signal {-code}"
        return f"`describe` {how}" + (f": {first}" if first else "")
    return output
