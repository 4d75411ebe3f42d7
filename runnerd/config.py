"""config: the administrator's file -> Config: what may stand in it, and its reading. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field
from typing import Any

from .errors import Invalid
from .faults import Faults
from .fields import LIMITS, TIMEOUT
from .frozen import frozen
from .kinds import Arguments, Choice, Count, Matching, Text, duration, size
from .model import Inputs, News
from .names import (
    CAPABILITY,
    CONTAINER_USER,
    DIRECTORY,
    EXECUTOR,
    GLOB,
    GROUP,
    NAME,
    QUEUE,
    SECRET,
    USER,
)
from .places import Address, MountText, Network, is_channel
from .schedule import DEFAULT_QUEUE
from .settings import Callbacks, Ceiling, Channel, Keep, MetricsFile, Retention, Rule
from .shapes import Field, Items, Record, Table
from .yamlsafe import Document, Entry, read

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
        Field("queues", Items(QUEUE, least=0), "Queues, beside the default one.", "[billing]"),
        Field(
            "images",
            Items(Matching(GLOB, "a pattern of images, like php:*"), least=0),
            "Images that containers may run, as patterns.",
            '["php:*"]',
        ),
        Field(
            "mounts",
            Items(MountText(alone=True), least=0),
            "Directories of which jobs may mount what is below them; `:ro` for reading only.",
            '["/srv/data:ro"]',
        ),
        Field(
            "networks",
            Items(Matching(GLOB, "a pattern of networks, like customer-*"), least=0),
            "Networks of the engine that containers may be attached to, as patterns.",
            "[bridge]",
            default="none at all",
        ),
        Field(
            "container_users",
            Items(CONTAINER_USER, least=0),
            "Whom containers may run as, beside the job's user. Who may be another there can be "
            "that other on this machine, by way of the files that it makes.",
            '["1000:1000"]',
        ),
        Field(
            "capabilities",
            Items(CAPABILITY, least=0),
            "Capabilities that containers which run as root may have.",
            "[NET_BIND_SERVICE]",
        ),
        Field(
            "hosts",
            Items(Matching(GLOB, "a pattern of host names, like web*.example.org"), least=0),
            "Hosts that the executor ssh may connect to, as patterns.",
            '["web*.example.org"]',
        ),
        Field(
            "secrets",
            Items(Matching(GLOB, "a pattern of secrets, like smtp-*"), least=0),
            "Secrets that jobs may have, as patterns.",
            "[smtp]",
        ),
        Field(
            "callbacks",
            Items(Matching(GLOB, "a pattern of host names, like *.example.org"), least=0),
            "Hosts that callbacks may go to, as patterns; and channels, like command:log.",
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

KEEP = Record(
    (
        Field(
            "age",
            duration(1, 36500 * 86400),
            "The longest time that a job is kept after its end.",
            "30d",
            attribute="age_s",
        ),
        Field("count", Count(0, 999_999_999), "The most jobs; the newest ones.", "10000"),
        Field(
            "size",
            size(0, 1 << 50),
            "The most that they take on the disk together; the newest ones.",
            "10G",
        ),
    ),
    Keep,
)

CALLBACKS = Record(
    (
        Field(
            "url",
            Address(),
            "Whom to tell of jobs that name no callback.",
            "https://backend.example/hook",
        ),
        Field(
            "events",
            Items(Choice(News)),
            "Which news of such jobs.",
            "[started, finished]",
            default="finished",
        ),
        Field("secret", SECRET, "The secret that signs these.", "backend"),
        Field(
            "networks",
            Items(Network(), least=0),
            "Networks of your own that endpoints may be in; others must be on the public Internet.",
            "[10.0.0.0/8]",
        ),
        Field(
            "proxy",
            Address(channels=False),
            "A proxy for all posts. It looks names up, so `networks` holds for it alone.",
            "http://proxy.example:3128",
        ),
        Field(
            "timeout",
            duration(0.1, 300),
            "How long an endpoint may take to be reached, and then to answer.",
            "10s",
            default="10s",
            attribute="timeout_s",
        ),
        Field(
            "give_up",
            duration(1, 365 * 86400),
            "How long an event is tried to be delivered.",
            "3d",
            default="3d",
            attribute="give_up_s",
        ),
        Field(
            "user",
            USER,
            "Whom the process with the network, commands of channels included, runs as.",
            "nobody",
            default="nobody",
        ),
    ),
    Callbacks,
)

CHANNEL = Record(
    (
        Field(
            "command",
            Arguments(),
            "A program, which gets each event as JSON on its standard input.",
            "[/usr/local/bin/log-event]",
        ),
        Field(
            "unix",
            DIRECTORY,
            "A Unix socket, which gets each event as a line of JSON.",
            "/run/backend/events.sock",
        ),
        Field(
            "plugin",
            Matching(r"[a-z][a-z0-9-]{0,31}", "the name of a plugin for callbacks"),
            "A plugin in Python.",
            "mail",
        ),
        Field(
            "options",
            Table(NAME, "the name of an option", Text(1000)),
            "Settings for the plugin.",
            "{to: ops@example.org}",
        ),
    ),
    Channel,
)

METRICS = Record(
    (
        Field(
            "file",
            Matching(r"/[^\x00-\x1f\x7f]*\.prom", "an absolute path that ends in .prom", 4000),
            "The file, in a directory that node_exporter's textfile collector reads.",
            "/var/lib/prometheus/node-exporter/runnerd.prom",
            default="none is written",
        ),
        Field(
            "every",
            duration(1, 3600),
            "How often it is written.",
            "15s",
            default="15s",
            attribute="every_s",
        ),
    ),
    MetricsFile,
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
            "executors",
            DIRECTORY,
            "The directory of the executors that are programs of their own.",
            "/usr/lib/runnerd/executors",
            default="/usr/lib/runnerd/executors",
        ),
        Field(
            "inputs",
            Record(
                (
                    Field("files", Count(0, 1_000_000), "Files and directories.", "100"),
                    Field("size", size(0, 1 << 50), "All together.", "1G", attribute="size_bytes"),
                ),
                Inputs,
            ),
            "The most input files that a bundle may have, and their size.",
            "{files: 1000, size: 1G}",
            default="{files: 1000, size: 1G}",
        ),
        Field(
            "retention",
            Record(
                (
                    Field("done", KEEP, "Of jobs that succeeded.", "{age: 30d}"),
                    Field("failed", KEEP, "Of jobs that did not.", "{age: 90d, count: 10000}"),
                ),
                Retention,
            ),
            "How long filed jobs are kept. What is over a bound is removed, the oldest first; "
            "never a job whose callbacks still wait.",
            "{done: {age: 30d}, failed: {age: 90d}}",
            default="all are kept for ever",
        ),
        Field(
            "callbacks",
            CALLBACKS,
            "How news of jobs are delivered, and whom to tell of jobs that name no callback.",
            "{networks: [10.0.0.0/8], proxy: http://proxy.example:3128}",
        ),
        Field(
            "channels",
            Table(NAME, "the name of a channel", CHANNEL),
            "Further ways to tell news. `command: [...]` in the channel log makes command:log.",
            "{log: {command: [/usr/local/bin/log-event]}}",
        ),
        Field(
            "metrics",
            METRICS,
            "Figures for Prometheus, as a file for node_exporter. Wants the Python package "
            "prometheus_client.",
            "{file: /var/lib/prometheus/node-exporter/runnerd.prom, every: 15s}",
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


@frozen(kw_only=True)
class Config:
    """The daemon's settings. What is None is left to whoever knows where the file lies.

    `rules`: the policy; where there is none, the safe one.
    """

    slots: int
    queues: Mapping[str, int] = field(default_factory=dict)
    spool: str | None = None
    group: str = "runner"
    runner_idle_s: float = 60.0
    rescan_s: float = 10.0
    templates: str | None = None
    secrets: str | None = None
    executors: str = "/usr/lib/runnerd/executors"
    inputs: Inputs = field(default_factory=Inputs)
    retention: Retention = field(default_factory=Retention)
    policy: tuple[Rule, ...] | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    channels: Mapping[str, Channel] = field(default_factory=dict)
    metrics: MetricsFile = field(default_factory=MetricsFile)
    rules: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        safe = (Rule(groups=(self.group,)),)
        object.__setattr__(self, "rules", safe if self.policy is None else self.policy)

    @property
    def targets(self) -> dict[str, Channel]:
        """The channels by what a callback names: KIND:NAME."""
        return {f"{each.kind}:{name}": each for name, each in self.channels.items()}

    @property
    def queue_sizes(self) -> dict[str, int]:
        """How many slots each queue has."""
        return {DEFAULT_QUEUE: self.slots, **self.queues}


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
    if not faults:
        config = Config(**{**values, "slots": values.get("slots") or cpus})
        _check_channels(config, document.top, faults)
    if faults:
        raise Invalid(faults.problems())
    return config


def _check_channels(config: Config, top: Mapping[str, Entry], faults: Faults) -> None:
    """Each channel is one thing, and the one that jobs are told by is there."""
    for name, each in config.channels.items():
        ways = sum(way is not None for way in (each.command, each.unix, each.plugin))
        nodes = top["channels"].value.value
        assert isinstance(nodes, dict)
        inside = faults.below("channels").below(name)
        if ways != 1:
            inside.add("expected one of command, unix and plugin", nodes[name].value)
        elif each.plugin in ("command", "unix", "http", "https"):
            inside.add(f"{each.plugin} is built in, and no plugin", nodes[name].value)
        elif each.options and each.plugin is None:
            inside.add("options are for plugins", nodes[name].value)
    url = config.callbacks.url
    if url is not None and (why := unknown_channel(url, config.targets)) is not None:
        faults.below("callbacks").add(why, top["callbacks"].value)


def unknown_channel(url: str, targets: Collection[str]) -> str | None:
    """What is wrong with an address that names a channel which is not there."""
    if not is_channel(url) or url in targets:
        return None
    known = f"there are {', '.join(sorted(targets))}" if targets else "there are none"
    return f"there is no channel {url} here; {known}"
