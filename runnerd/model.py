"""model: the nouns of runnerd, as frozen records.

A thing that was checked has another type than a thing that was read: bytes -> Document (yamlsafe)
-> JobSpec (parse) -> Claim (spool) -> Result (conclude). Times are seconds since the epoch, UTC,
as float; durations are seconds; sizes are bytes. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, Literal, NewType

from .frozen import frozen

JobId = NewType("JobId", str)


class State(StrEnum):
    """Where a job is. Each state is the directory that the job lies in."""

    QUEUED = "queued"  # incoming/
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a job failed, in one word."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    CANCELLED = "cancelled"
    INVALID = "invalid"
    DENIED = "denied"
    DUPLICATE = "duplicate"
    DEPENDENCY = "dependency"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"
    EXECUTOR = "executor"
    ARTIFACT = "artifact"


class OnDuplicate(StrEnum):
    """What becomes of a file whose id is taken."""

    NUMBER = "number"  # it gets the next free one: ID.2, ID.3 ...
    REJECT = "reject"


class When(StrEnum):
    """After what a step runs, or an artifact is kept."""

    SUCCESS = "success"
    FAILURE = "failure"
    ALWAYS = "always"


class Pull(StrEnum):
    """When an image is fetched."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class IoShare(StrEnum):
    """How a job's reads and writes rank beside those of others."""

    IDLE = "idle"
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class News(StrEnum):
    """What of a job a callback tells."""

    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"
    FINISHED = "finished"


@frozen(kw_only=True)
class Use:
    """A template, and the values of its parameters as they were submitted."""

    template: str
    values: Mapping[str, str] = field(default_factory=dict)


@frozen(kw_only=True)
class Mount:
    """A directory of this machine, and where a container sees it."""

    source: str
    target: str
    read_only: bool


@frozen(kw_only=True)
class Docker:
    """Options of the executor docker."""

    image: str
    pull: Pull = Pull.MISSING
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    network: str | None = None
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    platform: str | None = None
    registry_auth: str | None = None
    pull_timeout_s: float = 600.0


@frozen(kw_only=True)
class Ssh:
    """Options of the executor ssh. `identity` names a secret."""

    host: str
    user: str | None = None
    port: int | None = None
    identity: str | None = None
    host_key: str | None = None
    connect_timeout_s: float = 10.0


@frozen(kw_only=True)
class Step:
    """One thing for an executor to start: a script or an argument vector, never both.

    `uses` stands in their place until templates have filled it in. `options`: those of its
    executor, as JSON has them; `records.made` makes a record of them. `secrets`: the names of the
    secrets that the options speak of.
    """

    executor: str = "shell"
    run: str | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    secrets: tuple[str, ...] = ()
    uses: Use | None = None
    id: str | None = None
    name: str | None = None
    timeout_s: float | None = None
    when: When = When.SUCCESS
    continue_on_error: bool = False
    needs: tuple[str, ...] | None = None


@frozen(kw_only=True)
class Limits:
    """What a job may use of the machine; None is: as much as there is. `cpu`: parts of one CPU."""

    memory_bytes: int | None = None
    cpu: float | None = None
    cpu_time_s: float | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None
    output_bytes: int | None = None
    artifacts_bytes: int | None = None
    artifact_files: int | None = None
    nice: int | None = None
    io: IoShare | None = None


@frozen(kw_only=True)
class Retry:
    """How often a failed job is tried again, when, and after which reasons."""

    max: int
    delay_s: float = 10.0
    backoff: float = 2.0
    max_delay_s: float = 600.0
    on: tuple[Reason, ...] = (Reason.EXIT, Reason.TIMEOUT)


@frozen(kw_only=True)
class Concurrency:
    """At most `limit` jobs of this group run at once."""

    group: str
    limit: int = 1


@frozen(kw_only=True)
class Artifact:
    """Files below work/ that are kept."""

    path: str
    required: bool = False
    when: When = When.ALWAYS


@frozen(kw_only=True)
class Callback:
    """Whom to tell of which news; `secret` names what signs it.

    `url`: an address to post to, or KIND:NAME of a channel of the configuration.
    """

    url: str
    events: tuple[News, ...] = (News.FINISHED,)
    secret: str | None = None


@frozen(kw_only=True)
class JobSpec:
    """A job file that was parsed and found valid.

    `listed`: its steps were written as a list of such, and are named in log and result. `secrets`
    maps the names of variables to those of secrets. `template` and `parameters` are
    set when a template has been filled in; until then the one step has `uses`.
    """

    steps: tuple[Step, ...]
    listed: bool = False
    name: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    timeout_s: float | None = None
    kill_after_s: float = 10.0
    limits: Limits | None = None
    retry: Retry | None = None
    queue: str | None = None
    priority: int = 0
    concurrency: Concurrency | None = None
    not_before: float | None = None
    delay_s: float | None = None
    expires_s: float | None = None
    needs: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    callback: Callback | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_duplicate: OnDuplicate = OnDuplicate.NUMBER
    template: str | None = None
    parameters: tuple[str, ...] = ()


@frozen(kw_only=True)
class Submitter:
    """Who dropped the file: its owner."""

    uid: int
    user: str


@frozen(kw_only=True)
class Account:
    """A user of this machine, as a job runs as one: `groups` are all of them, by number."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str


@frozen(kw_only=True)
class Problem:
    """One thing that is wrong with a file. Lines and columns count from 1."""

    code: str
    message: str
    line: int | None = None
    column: int | None = None
    snippet: str | None = None


@frozen(kw_only=True)
class Refusal:
    """The answer to a file that will not run. There is at least one problem."""

    reason: Literal[
        Reason.INVALID,
        Reason.DENIED,
        Reason.DUPLICATE,
        Reason.DEPENDENCY,
        Reason.EXPIRED,
        Reason.CANCELLED,
    ]
    problems: tuple[Problem, ...]


@frozen(kw_only=True)
class Inputs:
    """How many input files and directories a bundle has, and their size; or the most it may."""

    files: int = 1000
    size_bytes: int = 1 << 30


@frozen(kw_only=True)
class Claim:
    """What the daemon decided about one dropped file: the record that a job directory starts with.

    It lies in the directory as `.claim`, is written before the file is taken, never changed, and
    stays there when the job is filed. A job that is to run has a `spec` and an `account` that it
    runs as; one with a `refusal` never runs, and has a `spec` if it could have. `text` is the file
    as it was judged, with bytes that are no UTF-8 as surrogate escapes, or None if it was not read.
    `boot_id` is the boot of the claim. `callback`: the job's own, or the configuration's. `file` is
    NAME.yaml, or NAME/job.yaml of a bundle, which has `inputs` if it is to run.
    """

    id: JobId
    file: str
    submitter: Submitter
    submitted_at: float
    boot_id: str
    text: str | None = None
    spec: JobSpec | None = None
    account: Account | None = None
    refusal: Refusal | None = None
    callback: Callback | None = None
    inputs: Inputs | None = None


@frozen(kw_only=True)
class StartMark:
    """A line of `.claim`: an attempt may have begun. Written before its first instruction.

    `oom_kills`: how many processes the kernel had killed for want of memory by then.
    """

    boot_id: str
    runner_pid: int
    started_at: float
    oom_kills: int | None = None
