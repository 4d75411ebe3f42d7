"""container: a step of the executor docker -> the container that it runs in. Pure.

The one place that reads the options of a step. In the container the step sees

    /work               its working directory, work/ of the job, which it may write
    /runnerd/script     what `run` holds, if it has that
    /runnerd/output     $RUNNER_OUTPUT
    /runnerd/progress   $RUNNER_PROGRESS

It runs as the job's user, with that user's groups, with no capability but those of `cap_add`, and
nothing that it starts can gain a right. Its variables go to the engine in the body of a request,
never by a command line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from runnerd import records
from runnerd.errors import NotStartable
from runnerd.frozen import frozen
from runnerd.model import Docker, IoShare, Limits, Mount, Pull, Step
from runnerd.places import lies_below

from . import Place
from .shell import interpreter

WORK, OURS = "/work", "/runnerd"
SCRIPT, OUTPUT, PROGRESS = f"{OURS}/script", f"{OURS}/output", f"{OURS}/progress"
OWNER, JOB, ATTEMPT, STEP = (f"runnerd.{each}" for each in ("owner", "job", "attempt", "step"))
_SPOOL = "runnerd.spool"  # for people
_MUST_HOLD = {"memory": "Memory", "cpu": "CpuQuota", "processes": "PidsLimit"}
_PERIOD_US = 100_000
# Of 10 to 1000. What a container has that asks for nothing is 500 in cgroup v1. In v2 runc turns
# them into 1 to 10000, where that is 100.
_WEIGHTS = {IoShare.IDLE: 10, IoShare.LOW: 250, IoShare.NORMAL: 0, IoShare.HIGH: 1000}
_WEIGHTS_V2 = {IoShare.IDLE: 10, IoShare.LOW: 15, IoShare.NORMAL: 0, IoShare.HIGH: 60}


@frozen(kw_only=True)
class Order:
    """What is to be made of a step, and how. `login`: to the image's registry, with a secret."""

    name: str
    body: Mapping[str, Any] = field(repr=False)
    image: str
    pull: Pull
    pull_timeout_s: float
    platform: str | None
    login: Mapping[str, str] = field(repr=False)
    limits: Limits
    mounts: tuple[Mount, ...]

    @property
    def labels(self) -> Mapping[str, str]:
        """What tells this container from all others."""
        labels: Mapping[str, str] = self.body["Labels"]
        return {name: labels[name] for name in (OWNER, JOB, ATTEMPT, STEP)}

    def without_init(self) -> Order:
        """The same with the script itself as process 1."""
        host = {name: value for name, value in self.body["HostConfig"].items() if name != "Init"}
        return replace(self, body={**self.body, "HostConfig": host})

    @property
    def of_job(self) -> Mapping[str, str]:
        """What its containers have in common with those of other attempts at the job."""
        return {name: self.labels[name] for name in (OWNER, JOB)}

    @property
    def is_again(self) -> bool:
        """Whether there were earlier attempts."""
        return self.labels[ATTEMPT] != "1"

    def is_beside(self, labels: Mapping[str, str]) -> bool:
        """Whether a container with these labels is of the same attempt."""
        return labels.get(ATTEMPT) == self.labels[ATTEMPT]

    @property
    def must_hold(self) -> Mapping[str, tuple[str, int]]:
        """What an engine leaves out, with a mere warning, where its kernel has no means for it.

        The limit's name, and the engine's name for it.
        """
        host: Mapping[str, Any] = self.body["HostConfig"]
        return {name: (key, host[key]) for name, key in _MUST_HOLD.items() if key in host}


def order(step: Step, place: Place, *, owner: str, script: str, cgroup_v2: bool) -> Order:
    """The container for a step. `script`: the file of this machine that holds what `run` says.

    Raises NotStartable for what only shows now.
    """
    options = records.made(Docker, step.options or {})
    account, limits = place.account, place.limits or Limits()
    user = options.user or f"{account.uid}:{account.gid}"
    is_root = user.partition(":")[0] in ("root", "0")
    if options.cap_add and not is_root:
        message = f"cap_add is of use to root only, and the container runs as {user}"
        raise NotStartable(message)
    entrypoint, command = _program(step, options)
    body: dict[str, Any] = {
        "Image": options.image,
        "Env": _environment(step, place),
        "User": user,
        "WorkingDir": WORK,
        "Labels": {
            OWNER: owner,
            _SPOOL: place.spool,
            JOB: place.job_id,
            ATTEMPT: str(place.attempt),
            STEP: str(place.step),
        },
        "HostConfig": {
            "Mounts": _mounts(step, options, place, script),
            "NetworkMode": options.network or "none",
            "ReadonlyRootfs": options.read_only,
            "CapDrop": ["ALL"],
            "CapAdd": list(options.cap_add),
            "SecurityOpt": ["no-new-privileges"],
            # The job's log is ours; this keeps the engine from writing another.
            "LogConfig": {"Type": "none"},
            **_held(limits, cgroup_v2=cgroup_v2),
        },
    }
    if step.run is not None and options.entrypoint is None:
        # A shell that is process 1 would not hear a signal that it has no trap for.
        body["HostConfig"]["Init"] = True
    if options.user is None:
        extra = [str(each) for each in account.groups if each != account.gid]
        body["HostConfig"]["GroupAdd"] = extra
    if entrypoint is not None:
        body["Entrypoint"] = entrypoint
    if command:
        body["Cmd"] = command
    job = re.sub(r"[^A-Za-z0-9_.-]", "_", place.job_id)
    return Order(
        name=f"runnerd-{owner[:8]}-{job}-{place.attempt}-{place.step}",
        body=body,
        image=options.image,
        pull=options.pull,
        pull_timeout_s=options.pull_timeout_s,
        platform=options.platform,
        login=_login(options, place),
        limits=limits,
        mounts=options.mounts,
    )


def _program(step: Step, options: Docker) -> tuple[list[str] | None, list[str]]:
    """Entry point and command. A script does without the image's entry point, as most need."""
    given = None if options.entrypoint is None else list(options.entrypoint)
    if step.run is None:
        return given, list(step.command or ())
    argv = interpreter(step.run, SCRIPT)
    return (argv, []) if given is None else (given, argv)


def _environment(step: Step, place: Place) -> list[str]:
    """What the image says, the job's own variables, and what runnerd tells it."""
    secrets = {}
    for name, value in place.secrets.items():
        try:
            secrets[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            message = f"the secret for {name} is not UTF-8, which is all that an engine takes"
            raise NotStartable(message) from None
    env = {
        "HOME": WORK,
        "USER": place.account.name,
        "LOGNAME": place.account.name,
        **place.handed_on,
        **step.env,
        **secrets,
        "RUNNER_JOB_ID": place.job_id,
        "RUNNER_JOB_DIR": place.directory,  # by which leftovers are found, as of any other job
        **place.variables,
        "RUNNER_OUTPUT": OUTPUT,
        "RUNNER_PROGRESS": PROGRESS,
    }
    return [f"{name}={value}" for name, value in env.items()]


def _mounts(step: Step, options: Docker, place: Place, script: str) -> list[dict[str, Any]]:
    for each in options.mounts:
        if lies_below(each.target, WORK) or lies_below(each.target, OURS):
            raise NotStartable(f"nothing can be mounted at {each.target}: that place is runnerd's")
    mounts = [
        Mount(source=f"{place.directory}/work", target=WORK, read_only=False),
        Mount(source=place.variables["RUNNER_OUTPUT"], target=OUTPUT, read_only=False),
        Mount(source=place.variables["RUNNER_PROGRESS"], target=PROGRESS, read_only=False),
        *options.mounts,
    ]
    if step.run is not None:
        mounts.append(Mount(source=script, target=SCRIPT, read_only=True))
    return [
        {
            "Type": "bind",
            "Source": each.source,
            "Target": each.target,
            "ReadOnly": each.read_only,
            # Unlike a path with colons, this never makes a directory that is not there.
        }
        for each in mounts
    ]


def _held(limits: Limits, *, cgroup_v2: bool) -> dict[str, Any]:
    """A job's limits as those of a container. What it has no word for is refused."""
    if limits.nice is not None:
        raise NotStartable("nice cannot be set for a container; `cpu` can")
    held: dict[str, Any] = {}
    ulimits = []
    if limits.memory_bytes is not None:
        held["Memory"] = held["MemorySwap"] = limits.memory_bytes  # both together: no swap
    if limits.cpu is not None:
        held["CpuPeriod"] = _PERIOD_US
        held["CpuQuota"] = max(1000, round(limits.cpu * _PERIOD_US))
    if limits.processes is not None:
        held["PidsLimit"] = limits.processes
    if limits.io is not None:
        held["BlkioWeight"] = (_WEIGHTS_V2 if cgroup_v2 else _WEIGHTS)[limits.io]
    if limits.open_files is not None:
        ulimits.append(("nofile", limits.open_files, limits.open_files))
    if limits.file_size_bytes is not None:
        ulimits.append(("fsize", limits.file_size_bytes, limits.file_size_bytes))
    if limits.cpu_time_s is not None:
        soft = math.ceil(limits.cpu_time_s)
        ulimits.append(("cpu", soft, soft + 1))
    held["Ulimits"] = [{"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in ulimits]
    return held


def _login(options: Docker, place: Place) -> Mapping[str, str]:
    """From a secret: user:password, or JSON with username, password and perhaps serveraddress."""
    name = options.registry_auth
    if name is None:
        return {}
    text = place.named_secrets[name].decode("utf-8", "replace")
    if not text.lstrip().startswith("{"):
        user, colon, password = text.partition(":")
        found = {"username": user, "password": password} if colon else {}
    else:
        try:
            found = json.loads(text)
        except ValueError:
            found = {}
    good = all(isinstance(each, str) for each in found.values())
    if not good or not {"username", "password"} <= found.keys():
        message = f"the secret {name} is no login: neither user:password nor JSON with "
        raise NotStartable(message + "`username` and `password`")
    return {key: found[key] for key in ("username", "password", "serveraddress") if key in found}
