"""child: between fork and exec, for a job that has limits, or a runner that has ignored signals.

Must stay short and import nothing that a forked process could trip over: it runs as root until it
has given that up, and it gives up groups, then the group, then the user, before it starts anything.

Errors: OSError with the errno of what failed in the child, exec included.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Collection, Mapping, Sequence

from .model import Account

_OUT_OF_THE_WAY = 10  # above the descriptors that the job gets


def start_as(
    account: Account,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    work_fd: int,
    descriptors: Mapping[int, int],
    default_signals: Collection[int],
    enter: Callable[[], None] | None = None,
) -> int:
    """Start a program as this user in a session of its own; its process id.

    `descriptors` maps the numbers that the program gets, in order, to ours. The rest is closed.
    `enter` is called before any right is given up.
    """
    report_fd, tell_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(report_fd)
        os.close(tell_fd)
        raise
    if pid == 0:
        tell_fd = fcntl.fcntl(tell_fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        try:
            os.setsid()
            os.fchdir(work_fd)
            if enter is not None:
                enter()
            if account.uid != os.geteuid():
                give_up_rights(account)
            _take_descriptors(descriptors)
            _reset_signals(default_signals)
            # Looks along the PATH, with the rights that are left.
            os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606  # no shell, as it should be
        except OSError as error:
            os.write(tell_fd, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(tell_fd)
    with open(report_fd, "rb") as report:  # noqa: PTH123  # a descriptor; it ends with the exec
        told = report.read()
    if told:
        os.waitpid(pid, 0)
        raise OSError(int(told), os.strerror(int(told)))
    return pid


def give_up_rights(account: Account) -> None:
    """For good: real, effective and saved ids. Leaving root clears the capabilities as well."""
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)


def _take_descriptors(descriptors: Mapping[int, int]) -> None:
    for number, fd in descriptors.items():
        os.dup2(fd, number)
        os.set_inheritable(number, True)  # noqa: FBT003  # dup2 onto itself does not


def _reset_signals(default_signals: Collection[int]) -> None:
    for number in default_signals:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
