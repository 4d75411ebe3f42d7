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


# --- what is to run -----------------------------------------------------------------------------


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


# --- what the administrator says ----------------------------------------------------------------


@frozen(kw_only=True)
class Ceiling:
    """The most that a job may ask for; one that asks for nothing gets that.

    Of `nice` it is the least, and of `io` the best, that it may ask for beyond the usual.
    """

    timeout_s: float | None = None
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
class Rule:
    """What some submitters may do: the users, and the members of the groups.

    `executors`: for free jobs. `run_as`: other users than themselves. `images`, `networks`, `hosts`
    (of ssh), `secrets` and `callbacks` (hosts) are patterns with `*`, `mounts` are directories.
    `container_users` and `capabilities` are those of containers.
    """

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    executors: tuple[str, ...] = ("shell",)
    run_as: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    networks: tuple[str, ...] = ()
    container_users: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()
    limits: Ceiling = field(default_factory=Ceiling)


@frozen(kw_only=True)
class Keep:
    """How long filed jobs of one state are kept: to this age, the newest so many, so many bytes.

    What is None is no bound.
    """

    age_s: float | None = None
    count: int | None = None
    size: int | None = None

    @property
    def is_bounded(self) -> bool:
        return (self.age_s, self.count, self.size) != (None, None, None)


@frozen(kw_only=True)
class Retention:
    """Which filed jobs are kept."""

    done: Keep = field(default_factory=Keep)
    failed: Keep = field(default_factory=Keep)

    @property
    def bounded(self) -> dict[State, Keep]:
        """The states of which not all is kept."""
        both = {State.DONE: self.done, State.FAILED: self.failed}
        return {state: keep for state, keep in both.items() if keep.is_bounded}


@frozen(kw_only=True)
class MetricsFile:
    """Where figures for Prometheus are written, and how often. Without a `file`, nowhere."""

    file: str | None = None
    every_s: float = 15.0


@frozen(kw_only=True)
class Channel:
    """A way of the administrator's to tell news, beside HTTP; one of the three is set.

    `command`: a program, which gets an event on its standard input. `unix`: a socket, which gets it
    as a line. `plugin`: of the entry points; `options` are for it.
    """

    command: tuple[str, ...] | None = None
    unix: str | None = None
    plugin: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What stands before the colon in a callback's address."""
        return self.plugin or ("command" if self.command else "unix")


@frozen(kw_only=True)
class Callbacks:
    """How news are delivered. `url`, `events`, `secret`: for jobs that name no callback.

    `networks`: where endpoints may be beside the public Internet. `give_up_s`: after so long an
    event becomes a dead letter. `user`: whom the part with the network runs as.
    """

    url: str | None = None
    events: tuple[News, ...] = (News.FINISHED,)
    secret: str | None = None
    networks: tuple[str, ...] = ()
    proxy: str | None = None
    timeout_s: float = 10.0
    give_up_s: float = 3 * 86400.0
    user: str = "nobody"

    @property
    def default(self) -> Callback | None:
        """The callback of jobs that name none."""
        if self.url is None:
            return None
        return Callback(url=self.url, events=self.events, secret=self.secret)


@frozen(kw_only=True)
class Allow:
    """Who may use a template: these users, and the members of these groups."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class ParameterType(StrEnum):
    """What a template's parameter holds."""

    STRING = "string"
    INTEGER = "integer"
    ENUM = "enum"
    BOOLEAN = "boolean"
    HOSTNAME = "hostname"
    PATH = "path"


@frozen(kw_only=True)
class Parameter:
    """A parameter of a template, as it is declared. What a type has no use for is None."""

    type: ParameterType = ParameterType.STRING
    help: str | None = None
    example: str | None = None
    default: str | None = None
    required: bool | None = None
    pattern: str | None = None
    max_length: int | None = None
    multiline: bool | None = None
    allow_dash: bool | None = None
    min: int | None = None
    max: int | None = None
    values: tuple[str, ...] | None = None
    below: str | None = None
