"""ssh: a step on another machine, over the system's OpenSSH client.

The client runs as the job's user. Its configuration files are not read, and the other machine's key
has to be known before: by the option `host_key`, or by the known_hosts of this machine or user.

On no command line, here or there, is more than the host, the user and a constant program. Script,
command and variables go through the connection as one shell program of our own making (`program`),
every value of the job's quoted. The identity reaches the client as an open file that only the job's
user can open: ssh closes what it inherits, so another process of the job holds it.

The input of the program over there stays open as long as the job may run. When it ends, whether the
job was cancelled here or the connection was lost, the step over there gets SIGTERM, and ten seconds
later SIGKILL: all of its session, where there is a setsid(1), or else its main process.

Not there: work/, $RUNNER_OUTPUT and $RUNNER_PROGRESS. Limits hold the client here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Mapping

from runnerd import records
from runnerd.errors import NotStartable
from runnerd.kinds import Count, Matching, duration
from runnerd.model import Ssh as Options
from runnerd.model import Step
from runnerd.names import SECRET
from runnerd.outcome import Exited, Failed, Outcome
from runnerd.shapes import Field, Record

from . import Executor, Place, Running
from .process import login, memfd, own, start, told
from .shell import SCRIPT_FD, interpreter

TROUBLE = 255  # how ssh(1) exits when it fails itself
_PROGRAM_FD, _INPUT_FD, _FEED_FD, _IDENTITY_FD, _HOSTS_FD = 3, 4, 5, 6, 7
_ALIAS = "runnerd"  # what the host is called in a known_hosts of ours
_HANDED = ("RUNNER_JOB_ID", "RUNNER_SUBMITTER", "RUNNER_ATTEMPT")

SSH = Record(
    (
        Field(
            "host",
            Matching(
                r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}",
                "the name or the address of a host",
            ),
            "The machine to run it on.",
            "web1.example.org",
            required=True,
            filled=True,
        ),
        Field(
            "user",
            Matching(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", "the name of a user"),
            "Whom it runs as there.",
            "deploy",
            default="the job's user",
        ),
        Field("port", Count(1, 65535), "The port of its ssh daemon.", "22", default="22"),
        Field(
            "identity",
            SECRET,
            "The secret that is the private key, without a passphrase.",
            "deploy-key",
            default="the keys of the job's user",
        ),
        Field(
            "host_key",
            Matching(
                r"[a-z0-9@.-]{7,60} [A-Za-z0-9+/]{40,12000}={0,3}( [!-~ ]{0,200})?",
                "a public key, like ssh-ed25519 AAAA...",
            ),
            "The public key of the host.",
            f"ssh-ed25519 {'A' * 68}",
            default="what known_hosts says, of this machine or of the job's user",
        ),
        Field(
            "connect_timeout",
            duration(1, 3600),
            "How long it may take to connect.",
            "10s",
            default="10s",
            attribute="connect_timeout_s",
        ),
    ),
    Options,
)


class Ssh(Executor):
    """The executor of that name."""

    options: Record | None = SSH
    about = "A process on another machine, by ssh."

    def start(self, step: Step, place: Place) -> Running:
        options = records.made(Options, step.options)
        text = program(step, {**own(step, place), **_handed(place)})
        with contextlib.ExitStack() as opened:
            try:
                input_fd, feed_fd = os.pipe2(os.O_CLOEXEC)
            except OSError as error:
                raise NotStartable(f"no pipe for ssh: {error.strerror}") from error
            for fd in (input_fd, feed_fd):
                opened.callback(os.close, fd)
            files = {_INPUT_FD: input_fd, _FEED_FD: feed_fd}
            for number, data in _files(text, options, place).items():
                files[number] = opened.enter_context(memfd(data, place))
            argv = ["/bin/sh", "-c", _client(options), "ssh", *_arguments(options, len(text))]
            return start(argv, {**login(place), **told(place)}, place, files, meaning=_meaning)


def _files(text: bytes, options: Options, place: Place) -> dict[int, bytes]:
    found = {_PROGRAM_FD: text}
    if options.identity is not None:
        # A secret has lost its last line end, without which it is no key to ssh.
        found[_IDENTITY_FD] = place.named_secrets[options.identity] + b"\n"
    if options.host_key is not None:
        found[_HOSTS_FD] = f"{_ALIAS} {options.host_key}\n".encode()
    return found


def _client(options: Options) -> str:
    """The program here: ssh, and beside it a process that feeds it and holds its files.

    SIGTERM ends the feeder and not ssh, which then brings us the rest of the output.
    """
    held = "-i /proc/$!/fd/{} " if options.identity is not None else ""
    held = held.format(_IDENTITY_FD)
    if options.host_key is not None:
        held += f"-o UserKnownHostsFile=/proc/$!/fd/{_HOSTS_FD} "
    return (
        f"{{ cat <&{_PROGRAM_FD}; exec sleep infinity; }} >&{_FEED_FD} {_INPUT_FD}<&- & "
        f'trap "" TERM; exec ssh {held}"$@" <&{_INPUT_FD} {_FEED_FD}>&-'
    )


def _arguments(options: Options, size: int) -> list[str]:
    settings = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(max(1, round(options.connect_timeout_s))),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "ClearAllForwardings": "yes",
        "ControlMaster": "no",
        "ControlPath": "none",
        "PermitLocalCommand": "no",
        "EscapeChar": "none",
        "LogLevel": "ERROR",
    }
    if options.identity is not None:
        settings |= {"IdentitiesOnly": "yes", "IdentityAgent": "none"}
    if options.host_key is not None:
        settings |= {"GlobalKnownHostsFile": "/dev/null", "HostKeyAlias": _ALIAS}
    arguments = ["-F", "none", "-T", "-a", "-x"]
    for name, value in settings.items():
        arguments += ["-o", f"{name}={value}"]
    if options.user is not None:
        arguments += ["-l", options.user]
    if options.port is not None:
        arguments += ["-p", str(options.port)]
    # Whatever the user's shell there is, it reads this alike. A part of the program runs nothing.
    remote = f"exec /bin/sh -c 'eval \"$(head -c $0)\"' {size}"
    return [*arguments, "--", options.host, remote]


def _handed(place: Place) -> dict[str, str]:
    """Of what runnerd tells a job, what means something there."""
    return {name: value for name, value in told(place).items() if name in _HANDED}


def program(step: Step, variables: Mapping[str, str]) -> bytes:
    """What the shell there runs. It starts with its last word, so a part of it does nothing."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if step.run is not None:
        words = shlex.join(interpreter(step.run))
        begin = (
            f"printf %s {shlex.quote(step.run)} | "
            f"{{ exec {SCRIPT_FD}<&0 0</dev/null 4<&-; exec $setsid {words}; }} &"
        )
    else:
        begin = f"{{ exec 0</dev/null 4<&-; exec $setsid {shlex.join(step.command or ())}; }} &"
    lines = [_BEFORE, *exports, begin, _AFTER]
    return os.fsencode("\n".join(lines))


_BEFORE = """\
runnerd() {
exec 4<&0 0</dev/null
setsid=$(command -v setsid)\
"""
_AFTER = """\
job=$!
finish() { kill "-$1" "-$job" 2>/dev/null || kill "-$1" "$job" 2>/dev/null; }
{
  while read -r x; do :; done
  finish TERM
  n=10
  while [ "$n" -gt 0 ] && finish 0; do sleep 1; n=$((n - 1)); done
  finish KILL
} <&4 >/dev/null 2>&1 &
line=$!
exec 4<&-
wait "$job"
status=$?
finish KILL
kill -KILL "$line" 2>/dev/null
exit "$status"
}
runnerd\
"""


def _meaning(outcome: Outcome) -> Outcome:
    if outcome == Exited(TROUBLE):
        return Failed(
            "ssh could not connect, or lost its connection; its output says why "
            f"(a program there that exits with {TROUBLE} itself looks the same)"
        )
    return outcome
