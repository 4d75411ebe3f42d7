"""config: the administrator's file -> Config: what may stand in it, and its reading. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Invalid
from .faults import Faults
from .fields import LIMITS, TIMEOUT
from .kinds import Count, Matching, duration
from .model import Ceiling, Rule
from .names import DIRECTORY, EXECUTOR, GLOB, GROUP, NAME, QUEUE, USER
from .places import MountText
from .schedule import DEFAULT_QUEUE
from .shapes import Field, Items, Record, Table
from .yamlsafe import Document, read

WHO = (
    Field("users", Items(USER), "These users.", "[alice]"),
    Field("groups", Items(GROUP), "The members of these groups.", "[runner]"),
)

RULE = Record(
    (
        *WHO,
        Field(
            "executors",
            Items(EXECUTOR, least=0),
            "What free jobs may be run with; [] leaves the templates.",
            "[shell]",
            default="[shell]",
        ),
        Field(
            "run_as",
            Items(USER, least=0),
            "Whom jobs may run as, beside the submitter.",
            "[www-data]",
        ),
        Field("queues", Items(QUEUE, least=0), "Queues.", "[billing]"),
        Field(
            "images",
            Items(Matching(GLOB, "a pattern of images, like php:*"), least=0),
            "Images, as patterns.",
            '["php:*"]',
        ),
        Field(
            "mounts",
            Items(MountText(alone=True), least=0),
            "Directories of which jobs may mount what is below them; `:ro` for reading only.",
            '["/srv/data:ro"]',
        ),
        Field(
            "secrets",
            Items(Matching(GLOB, "a pattern of secrets, like smtp-*"), least=0),
            "Secrets, as patterns.",
            "[smtp]",
        ),
        Field(
            "callbacks",
            Items(Matching(GLOB, "a pattern of host names, like *.example.org"), least=0),
            "Hosts that callbacks may go to, as patterns.",
            '["*.example.org"]',
        ),
        Field(
            "limits",
            Record((TIMEOUT, *LIMITS.fields), Ceiling),
            "The most that a job may ask for, and what it gets if it does not ask.",
            "{timeout: 1h}",
        ),
    ),
    Rule,
)

CONFIG = Record(
    (
        Field(
            "spool",
            DIRECTORY,
            "The spool's directory. Made at start, with all that belongs into it.",
            "/var/spool/runner",
            default="/var/spool/runner; for another user than root, $XDG_STATE_HOME/runnerd/spool",
        ),
        Field(
            "slots",
            Count(1, 1024, "auto"),
            "How many jobs run at once. auto: as many as there are CPUs for the daemon.",
            "auto",
            default="auto",
        ),
        Field(
            "queues",
            Table(rf"(?!{DEFAULT_QUEUE}$){NAME}", "the name of a queue", Count(1, 1024)),
            "Further queues, and how many slots each of them has for itself.",
            "{billing: 1}",
        ),
        Field(
            "group",
            GROUP,
            "Whose members may drop files. Without such a group, only the daemon's user may.",
            "runner",
            default="runner",
        ),
        Field(
            "runner_idle",
            duration(0.1, 86400),
            "How long a runner process without a job is kept, ready to start one at once.",
            "60s",
            default="60s",
            attribute="runner_idle_s",
        ),
        Field(
            "rescan",
            duration(0.1, 3600),
            "How often incoming/ is looked at when no event asks for it.",
            "10s",
            default="10s",
            attribute="rescan_s",
        ),
        Field(
            "templates",
            DIRECTORY,
            "The directory of the templates.",
            "/etc/runnerd/jobs.d",
            default="jobs.d, beside this file",
        ),
        Field(
            "secrets",
            DIRECTORY,
            "The directory of the secrets, a file for each, which only its owner may read.",
            "/etc/runnerd/secrets",
            default="secrets, beside this file",
        ),
        Field(
            "policy",
            Items(RULE, least=0),
            "Who may do what. A job runs if one rule for its submitter allows all of it.",
            "[{groups: [runner], executors: [shell]}]",
            default="members of `group` may submit shell jobs that run as themselves",
        ),
    ),
    dict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The daemon's settings. What is None is left to whoever knows where the file lies."""

    slots: int
    queues: Mapping[str, int] = field(default_factory=dict)
    spool: str | None = None
    group: str = "runner"
    runner_idle_s: float = 60.0
    rescan_s: float = 10.0
    templates: str | None = None
    secrets: str | None = None
    policy: tuple[Rule, ...] | None = None

    @property
    def queue_sizes(self) -> dict[str, int]:
        """How many slots each queue has."""
        return {DEFAULT_QUEUE: self.slots, **self.queues}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The policy; where there is none, the safe one."""
        return (Rule(groups=(self.group,)),) if self.policy is None else self.policy


def read_config(data: bytes, *, cpus: int) -> Config:
    """Read the configuration; what is not there has its default. Raises Invalid."""
    try:
        document = read(data)
    except Invalid as invalid:
        if invalid.problems[0].code != "empty":
            raise
        document = Document({}, ())
    faults = Faults(document)
    values: dict[str, Any] = CONFIG.values(document.top, faults)
    if faults:
        raise Invalid(faults.problems())
    return Config(**{**values, "slots": values.get("slots") or cpus})
