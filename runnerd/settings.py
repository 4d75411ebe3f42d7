"""settings: what the administrator says, as frozen records: in the configuration, and in templates.

As in `model`: durations are seconds, sizes are bytes, and nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from .frozen import frozen
from .model import Callback, IoShare, Mount, News, State


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
