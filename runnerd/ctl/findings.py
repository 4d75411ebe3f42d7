"""findings: all that the doctor can find, each with its verdict, its sentence and the remedy.

A check looks and tells what it found by a word of this table, and nothing else. A new finding is a
row here and a line in a check.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from runnerd.frozen import frozen


class Verdict(StrEnum):
    """How bad it is. `WRONG` alone makes the exit status 1."""

    GOOD = "good"
    UNKNOWN = "unknown"
    WARNING = "warning"
    WRONG = "wrong"


WARNING, WRONG = Verdict.WARNING, Verdict.WRONG


@frozen
class Row:
    """One thing that can be found. The texts have places for the values of a finding."""

    verdict: Verdict
    message: str
    remedy: str


@frozen
class Finding:
    """A row of the table, and the values for its texts."""

    word: str
    values: Mapping[str, object]


def found(word: str, **values: object) -> Finding:
    """What a check has found."""
    return Finding(word, values)


class CannotTell(Exception):
    """A check that may not see what it has to. The words: what it lacks, like `needs root`."""


TABLE = {
    # --- what the administrator set up
    "config-broken": Row(WRONG, "{why}", "correct it; `runnerd --check` says when it is good"),
    "template-broken": Row(WRONG, "{why}", "correct it, then: systemctl reload runnerd"),
    "others-write": Row(
        WRONG,
        "{path} {how}, so others could change what runs as whom",
        "chown root {path} && chmod go-w {path}",
    ),
    "secret-unusable": Row(WRONG, "{why}", "put that right at {path}"),
    "secrets-listed": Row(
        WARNING, "{path} has mode {mode}: others can list the secrets", "chmod 0700 {path}"
    ),
    "executor-disabled": Row(
        WRONG, "the executor {name} is disabled: {why}", "mend or remove it, then restart runnerd"
    ),
    "package-missing": Row(WRONG, "the Python package {name} is not installed", "install it"),
    "package-old": Row(
        WRONG, "the Python package {name} is {version}, older than {least}", "install a newer one"
    ),
    "metrics-package": Row(
        WRONG,
        "`metrics` wants the Python package prometheus_client: {why}",
        "apt install python3-prometheus-client",
    ),
    "metrics-stale": Row(
        WRONG, "{path} was last written {age} ago", "see the daemon's log for why"
    ),
    "metrics-absent": Row(
        WRONG,
        "{path} is not there, though the daemon serves",
        "make its directory; reload runnerd if `metrics` is new; see the log",
    ),
    # --- the spool's directories
    "no-spool": Row(WRONG, "{path} is no spool", "start runnerd, which makes one"),
    "place-missing": Row(WRONG, "{path} is missing", "restart runnerd, which makes it"),
    "place-unfit": Row(WRONG, "{path} {message}", "{remedy}"),
    "other-device": Row(WRONG, "{path} {message}", "move it there"),
    "read-only": Row(WRONG, "{path} is mounted read-only", "mount -o remount,rw, once it is sound"),
    "no-group": Row(
        WARNING,
        "there is no group {group}, so only the daemon's user may drop",
        "groupadd --system {group}, or name another by `group`; then restart runnerd",
    ),
    "drop-shut": Row(
        WARNING,
        "{path} has mode {mode} and group {gid}, so members of {group} cannot drop",
        "chgrp {group} {path} && chmod {right} {path}",
    ),
    "space-gone": Row(WRONG, "{path}: {free} are free", "make room"),
    "space-low": Row(WARNING, "{path}: {free} of {total} are free", "make room soon"),
    "inodes-gone": Row(WRONG, "{path}: {free} inodes are free", "remove files: runnerctl prune"),
    "inodes-low": Row(
        WARNING, "{path}: {free} of {total} inodes are free", "remove files: runnerctl prune"
    ),
    # --- the daemon
    "not-served": Row(
        WRONG, "no daemon serves {path}", "systemctl start runnerd, or: runnerd --spool {path}"
    ),
    "daemon-halted": Row(
        WRONG, "the daemon, pid {pid}, is {how}", "kill -CONT {pid}, or restart runnerd"
    ),
    "no-answer": Row(
        WRONG,
        "the daemon took no request within {patience}",
        "see its log; systemctl restart runnerd (jobs go on)",
    ),
    "cannot-ask": Row(WRONG, "{why}", "put that right; then look again"),
    "paused": Row(WARNING, "no jobs are started: paused {age} ago", "runnerctl resume"),
    "degraded": Row(
        WRONG, "the daemon takes no new jobs: {why}", "put that right; it goes on then"
    ),
    "few-descriptors": Row(
        WARNING,
        "the daemon may open {limit} files; for {slots} slots it should be {wanted}",
        "LimitNOFILE={wanted} in the unit, or ulimit -n",
    ),
    "no-cgroups": Row(
        WARNING,
        "jobs get no cgroups: memory and processes are watched instead, which is less exact, and "
        "`limits: {{cpu}}` is refused",
        "Delegate=yes in the unit, on a machine with cgroup v2",
    ),
    "no-controller": Row(
        WARNING,
        "cgroups of jobs have no controller {name}: {effect}",
        "Delegate=yes and DelegateSubgroup=supervisor in the unit; cgroup v2 alone at boot",
    ),
    # --- the machine
    "no-watch": Row(
        WARNING,
        "inotify is not to be had, so jobs start up to {rescan} late: {why}",
        "raise fs.inotify.max_user_instances and max_user_watches by sysctl",
    ),
    "inotify-low": Row(
        WARNING, "fs.inotify.{name} is {value}", "sysctl -w fs.inotify.{name}={least}"
    ),
    "engine-needed": Row(
        WRONG,
        "jobs may run in containers, and the engine at {address} cannot be used: {why}",
        "systemctl start docker, or DOCKER_HOST in the unit's environment",
    ),
    "engine-idle": Row(
        WARNING,
        "the container engine at {address} cannot be used: {why}",
        "systemctl start docker, if anybody wants it",
    ),
    "sweep-owed": Row(
        WARNING,
        "containers of ended jobs may be left, since {age}",
        "start the container engine; runnerd removes them then",
    ),
    "clock-loose": Row(WARNING, "the clock is not synchronised", "timedatectl set-ntp true"),
    "from-future": Row(
        WARNING,
        "{path} was changed {ahead} ahead of now: the clock was set back",
        "set the clock right",
    ),
    "no-journal": Row(
        WARNING,
        "there is no journal at {path}, so the log has no fields and may be lost",
        "systemctl start systemd-journald.socket",
    ),
    "journal-volatile": Row(
        WARNING,
        "the journal is in memory: the log of jobs is lost at each boot",
        "mkdir /var/log/journal && systemctl restart systemd-journald",
    ),
    # --- what lies in the spool
    "stray": Row(WARNING, "{path} is no job, and stays where it is", "remove or rename it"),
    "leftover": Row(
        WARNING, "{path} was begun {age} ago by uid {uid}, and never dropped", "remove it"
    ),
    "file-stuck": Row(
        WRONG, "{path} cannot be taken: it is {what}", "remove it by hand (umount, rm)"
    ),
    "request-stray": Row(WARNING, "{path} asks for nothing that is known", "remove it"),
    "request-stuck": Row(
        WRONG, "{path} was not answered for {age}", "see the daemon's log for why"
    ),
    "more": Row(WARNING, "and {count} more like this: {kind}", "as above"),
    "job-unattended": Row(
        WRONG,
        "{path} has no runner, and the daemon does not settle it",
        "see the log for {id}; restart runnerd; else stop it and: runnerctl fsck",
    ),
    "job-left": Row(
        WARNING, "{path} has no runner, and there is no daemon", "start runnerd, which settles it"
    ),
    "result-broken": Row(WRONG, "{why}", "stop runnerd, then: runnerctl fsck --repair"),
    "callbacks-late": Row(
        WARNING,
        "callbacks wait to be told: {count}, the oldest for {age}",
        "runnerctl callbacks says why",
    ),
    "dead-letters": Row(
        WARNING,
        "callbacks were given up: {count}",
        "runnerctl callbacks; then: runnerctl callbacks retry ID",
    ),
    "entry-damaged": Row(WARNING, "{path} is a damaged callback", "look at it, then remove it"),
}
