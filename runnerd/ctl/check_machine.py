"""check_machine: what the doctor looks at of the machine and of what the administrator set up."""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.metadata
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from runnerd import api
from runnerd import journal as log
from runnerd.configfile import Setup, template_directory
from runnerd.debts import OWED, SETTLING
from runnerd.errors import NotStartable
from runnerd.processes import DAEMON, SUPERVISOR, cgroup_of
from runnerd.secretstore import SecretStore
from runnerd.templates import Template
from runnerd.units import in_words

from . import engine as engines
from .case import Case, about
from .findings import CannotTell, Finding, found

_EFFECTS = {
    "cpu": "jobs with `limits: {cpu}` are refused, `nice` holds within a job only",
    "memory": "memory is watched instead, which is less exact",
    "pids": "processes are counted instead, which is less exact",
    "io": "`limits: {io}` and the figures of reads and writes are those of processes",
}
_LEAST = {"max_user_instances": 64, "max_user_watches": 1024, "max_queued_events": 4096}
_OWN_DESCRIPTORS, _PER_SLOT = 64, 4
_LATE_S = 600.0
_FUTURE_S = 60.0
_TIME_ERROR = 5  # adjtimex(2)
_SYSTEMD = Path("/run/systemd/system")
_KEPT_LOG, _SYNCHRONISED = Path("/var/log/journal"), Path("/run/systemd/timesync/synchronized")


# --- what the administrator set up --------------------------------------------------------------


def configuration(case: Case) -> Iterator[Finding]:
    """Is it good, and can nobody but its owner change it?"""
    if case.complaint is not None:
        yield found("config-broken", why=_first_line(case.complaint))
    for why in case.setup.faults if case.setup else ():
        yield found("template-broken", why=_first_line(why))
    places = {case.file, template_directory(case.config, case.file)}
    if case.setup is not None:
        places |= {case.setup.secrets, case.setup.programs}
    above = {above for each in places for above in (each, *each.parents)}
    for path in sorted(above):
        how = _open_to_others(path, case.uid)
        if how is not None:
            yield found("others-write", path=path, how=how)


def _open_to_others(path: Path, uid: int) -> str | None:
    """How others than root and the daemon's user can change a file, or what is in a directory."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    forbidden = 0o022 if uid == 0 else 0o002
    if status.st_uid not in (0, uid):
        return f"belongs to uid {status.st_uid}"
    if status.st_mode & forbidden and not status.st_mode & stat.S_ISVTX:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}"
    return None


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _setup(case: Case) -> Setup:
    if case.setup is None:
        raise CannotTell("the configuration is broken")
    return case.setup


def secrets(case: Case) -> Iterator[Finding]:
    """Would a job get each of them?"""
    directory = _setup(case).secrets
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    if mode & 0o044:
        yield found("secrets-listed", path=directory, mode=f"{mode:04o}")
    if os.geteuid() != case.uid:
        raise CannotTell(case.lack)
    store = SecretStore(directory)
    for name in names:
        if not name.startswith("."):
            try:
                store.values({name: name})
            except NotStartable as error:
                yield found("secret-unusable", why=error, path=directory / name)


def executors(case: Case) -> Iterator[Finding]:
    """Which of them cannot be used?"""
    for name, why in _setup(case).executors.broken.items():
        yield found("executor-disabled", name=name, why=why)


def packages(_: Case) -> Iterator[Finding]:
    """Is all there that runnerd's own package asks for?"""
    try:
        wanted = importlib.metadata.requires("runnerd") or []
    except importlib.metadata.PackageNotFoundError:
        raise CannotTell("runnerd is not installed as a package") from None
    for each in wanted:
        # `click>=8.1`, or in older metadata `click (>=8.1)`; what follows a `;` is for extras
        read = re.fullmatch(r"([\w.-]+)\s*\(?>=\s*([\w.]+)\)?", each.strip())
        if read is None:
            continue
        name, least = read[1], read[2]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield found("package-missing", name=name)
        else:
            if _numbers(version) < _numbers(least):
                yield found("package-old", name=name, version=version, least=least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def metrics(case: Case) -> Iterator[Finding]:
    """Are they written?"""
    settings = case.config.metrics
    if settings.file is None:
        return
    try:
        importlib.import_module("prometheus_client")
    except ImportError as error:
        yield found("metrics-package", why=error)
    if not case.served:
        return
    try:
        age_s = case.now - Path(settings.file).stat().st_mtime
    except FileNotFoundError:
        yield found("metrics-absent", path=settings.file)
    else:
        if age_s > 4 * settings.every_s:
            yield found("metrics-stale", path=settings.file, age=about(age_s))


# --- the daemon's surroundings ------------------------------------------------------------------


def descriptors(case: Case) -> Iterator[Finding]:
    """May the daemon open enough files?"""
    text = Path(f"/proc/{case.insist_on_daemon()}/limits").read_text("ascii")
    limit = re.search(r"^Max open files\s+(\d+)", text, re.MULTILINE)
    slots = sum(case.config.queue_sizes.values())
    wanted = _OWN_DESCRIPTORS + _PER_SLOT * slots
    if limit is not None and int(limit[1]) < wanted:
        yield found("few-descriptors", limit=limit[1], slots=slots, wanted=wanted)


def cgroups(case: Case) -> Iterator[Finding]:
    """Does each job get a cgroup of its own, and what can that hold?"""
    own = cgroup_of(case.insist_on_daemon())
    if own is None or own.name not in (SUPERVISOR, DAEMON):
        yield found("no-cgroups")
        return
    enabled = (own.parent / "cgroup.subtree_control").read_text("ascii").split()
    for name, effect in _EFFECTS.items():
        if name not in enabled:
            yield found("no-controller", name=name, effect=effect)


def inotify(case: Case) -> Iterator[Finding]:
    """Can a directory be watched, and will that be enough?"""
    for name, least in _LEAST.items():
        value = int(Path("/proc/sys/fs/inotify", name).read_text("ascii"))
        if value < least:
            yield found("inotify-low", name=name, value=value, least=least)
    try:
        with api.changes([case.root / "done"]):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENOSYS):
            raise
        yield found("no-watch", why=error.strerror, rescan=in_words(case.config.rescan_s))


def engine(case: Case) -> Iterator[Finding]:
    """Does the container engine answer, if there is one, or somebody wants it?"""
    yield from _sweep_owed(case)
    needed = _wants_containers(case)
    env = engines.address_for(case.pid)
    if not (needed or env.get("DOCKER_HOST") or shutil.which("dockerd")):
        return
    why = engines.why_not(env)
    if why is not None:
        word = "engine-needed" if needed else "engine-idle"
        yield found(word, address=env.get("DOCKER_HOST") or engines.USUAL, why=why)


def _sweep_owed(case: Case) -> Iterator[Finding]:
    for name in (OWED, SETTLING):
        try:
            since = (case.root / name).stat().st_mtime
        except FileNotFoundError:
            continue
        if case.now - since > _LATE_S:
            yield found("sweep-owed", age=case.age(since))


def _wants_containers(case: Case) -> bool:
    """Whether the policy or a template lets jobs run in containers."""
    templates = case.setup.templates.values() if case.setup else ()
    by_template = any(each is not None and _uses_docker(each) for each in templates)
    return by_template or any("docker" in rule.executors for rule in case.config.rules)


def _uses_docker(template: Template) -> bool:
    steps = template.job.top["steps"].value.value if "steps" in template.job.top else ()
    tops = [template.job.top, *(each.value for each in steps if not isinstance(each, str))]
    return any("docker" in top for top in tops)


def clock(case: Case) -> Iterator[Finding]:
    """Is the clock right, as far as can be known, and was it before?"""
    for name in ("incoming", "running", "done", "failed", "outbox"):
        path = case.root / name
        ahead_s = path.stat().st_mtime - case.now
        if ahead_s > _FUTURE_S:
            yield found("from-future", path=path, ahead=about(ahead_s))
    # The kernel's struct timex is smaller than this; of zeros only, it asks and sets nothing.
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))
    if answer == _TIME_ERROR and not _SYNCHRONISED.exists():
        yield found("clock-loose")


def journal(case: Case) -> Iterator[Finding]:
    """Is there a journal, and does it outlive a boot?"""
    if case.uid != 0 or not _SYSTEMD.exists():
        return
    if not Path(log.SOCKET).exists():
        yield found("no-journal", path=log.SOCKET)
    elif not _KEPT_LOG.exists():
        yield found("journal-volatile")
