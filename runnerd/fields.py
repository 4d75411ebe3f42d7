"""fields: the one declaration of every field of a job.

The validator, the JSON Schema and the manual are made from it. A later field is one more line here
and one attribute in `model`. (Those of the configuration and of templates: `config`, `templates`.)
Pure.
"""

from __future__ import annotations

from dataclasses import replace

from .kinds import (
    Arguments,
    Boolean,
    Choice,
    Count,
    Line,
    Matching,
    Moment,
    Script,
    Text,
    duration,
    factor,
    share,
    size,
)
from .model import (
    Artifact,
    Callback,
    Concurrency,
    Docker,
    IoShare,
    Limits,
    News,
    OnDuplicate,
    Pull,
    Reason,
    Retry,
    When,
)
from .names import (
    CAPABILITY,
    CONTAINER_USER,
    EXECUTOR,
    ID,
    NAME,
    QUEUE,
    SECRET,
    STEP_ID,
    TEMPLATE_NAME,
    USER,
    VARIABLE,
    VARIABLE_RULE,
    WORD,
)
from .places import Address, Below, MountText
from .shapes import Field, Items, Record, Table

YEAR_S = 365 * 86400
_NAMED = Field("name", Line(), "What it is, for people.", "Invoice 4711", filled=True)
_RUN = Field(
    "run",
    Script(),
    "A script for /bin/sh -e, or for what its #! line names; or a list of commands.",
    "./render 4711 > invoice.pdf",
)
_COMMAND = Field(
    "command",
    Arguments(),
    "A program and its arguments; no shell looks at them. Instead of `run`.",
    "[./render, '4711']",
)
_USES = Field(
    "uses",
    TEMPLATE_NAME,
    "A template of the administrator, which says what to run. Instead of `run`.",
    "create-vhost",
)
_WITH = Field(
    "with",
    Table(r"[a-z][a-z0-9_]{0,62}", "small letters, digits and _", Text()),
    "The values of the template's parameters.",
    "{domain: example.org}",
    attribute="with_",
)
_RUNS_WITH = Field("executor", EXECUTOR, "What runs it.", "shell", default="shell")
_ENV = Field(
    "env",
    Table(VARIABLE, VARIABLE_RULE, Text(), reserved="RUNNER_"),
    "Environment variables, beside a login's and those of runnerd.",
    "{LANG: de_DE.UTF-8}",
    filled=True,
)
TIMEOUT = Field(
    "timeout",
    duration(0.001, YEAR_S),
    "How long it may run. Then it gets SIGTERM, and after `kill_after` SIGKILL.",
    "10m",
    default="no limit",
    attribute="timeout_s",
)
DOCKER = Record(
    (
        Field(
            "image",
            Matching(r"[a-z0-9][A-Za-z0-9._:/@-]{0,300}", "the name of an image"),
            "The image to run.",
            "php:8.3-cli",
            required=True,
            filled=True,
        ),
        Field(
            "pull",
            Choice(Pull),
            "When the image is fetched from its registry.",
            "missing",
            default="missing",
        ),
        Field("entrypoint", Arguments(), "In place of the image's own.", "[/bin/sh, -c]"),
        Field(
            "user",
            CONTAINER_USER,
            "Whom it runs as in the container, where a policy allows it.",
            '"1000:1000"',
            default="the job's user",
        ),
        Field(
            "network",
            Matching(NAME, "the name of a network"),
            "The network that it is attached to.",
            "none",
            default="none",
        ),
        Field(
            "mounts",
            Items(MountText(), most=50),
            "Directories of the machine, where the container sees them; `:ro` protects them.",
            '["/srv/data:/data:ro"]',
        ),
        Field(
            "read_only",
            Boolean(),
            "Whether the container's own file system may not be written.",
            "true",
            default="false",
        ),
        Field(
            "cap_add",
            Items(CAPABILITY, most=50),
            "Capabilities, of which it has none otherwise. Of use to `user: root` only.",
            "[NET_BIND_SERVICE]",
        ),
        Field(
            "platform",
            Matching(r"[a-z0-9]+(/[a-z0-9]+){0,2}", "a platform, like linux/amd64"),
            "The platform of the image, where it has several.",
            "linux/amd64",
        ),
        Field(
            "registry_auth",
            SECRET,
            "The secret to log in to the registry with: user:password, or JSON with "
            "username, password and perhaps serveraddress.",
            "registry",
        ),
        Field(
            "pull_timeout",
            duration(1, 86400),
            "How long fetching the image may take. It is no part of `timeout`.",
            "5m",
            default="10m",
            attribute="pull_timeout_s",
        ),
    ),
    Docker,
)

LIMITS = Record(
    (
        Field(
            "memory",
            size(1 << 20, 1 << 50),
            "Memory of all its processes together.",
            "512M",
            attribute="memory_bytes",
        ),
        Field(
            "cpu",
            share(0.01, 1024),
            "Its share of the CPUs: 100% is all of one, 200% of two.",
            "150%",
        ),
        Field(
            "cpu_time",
            duration(1, YEAR_S),
            "CPU time of all its processes.",
            "60s",
            attribute="cpu_time_s",
        ),
        Field("processes", Count(1, 1_000_000), "Processes and threads at once.", "64"),
        Field("open_files", Count(8, 1_000_000), "Open files of one process.", "1024"),
        Field(
            "file_size",
            size(0, 1 << 50),
            "The largest file that it may write.",
            "1G",
            attribute="file_size_bytes",
        ),
        Field(
            "output",
            size(0, 1 << 50),
            "What is kept of its output.",
            "100M",
            attribute="output_bytes",
        ),
        Field(
            "artifacts",
            size(0, 1 << 50),
            "What is kept of its artifacts.",
            "100M",
            default="1G",
            attribute="artifacts_bytes",
        ),
        Field(
            "artifact_files",
            Count(0, 100_000),
            "How many files are kept as artifacts.",
            "100",
            default="1000",
        ),
        Field("nice", Count(-20, 19), "CPU priority; 19 is the lowest.", "10"),
        Field("io", Choice(IoShare), "How its reads and writes rank.", "idle"),
    ),
    Limits,
)

STEP = Record(
    (
        Field("id", STEP_ID, "What other steps call it.", "render"),
        _NAMED,
        _RUN,
        _COMMAND,
        replace(_USES, supported=False),
        replace(_WITH, supported=False),
        _RUNS_WITH,
        _ENV,
        TIMEOUT,
        Field(
            "if",
            Choice(When),
            "After what it runs: success of all before it, failure of one, or always.",
            "always",
            default="success",
            attribute="when",
        ),
        Field(
            "continue_on_error",
            Boolean(),
            "Whether the job goes on if it fails.",
            "true",
            default="false",
        ),
        Field(
            "needs",
            Items(STEP_ID, least=0, most=100),
            "Steps that must have ended first. Without it: the one before.",
            "[render]",
        ),
    ),
    dict,
)

JOB = Record(
    (
        _NAMED,
        _RUN,
        _COMMAND,
        Field(
            "steps",
            Items(STEP, most=100),
            "Several things to run, one after the other or as a graph. Instead of `run`.",
            "[{id: render, run: ./render}, {run: ./send}]",
        ),
        _USES,
        _WITH,
        _RUNS_WITH,
        _ENV,
        Field(
            "secrets",
            Table(VARIABLE, VARIABLE_RULE, SECRET, reserved="RUNNER_"),
            "Environment variables that get secrets. In the output the values show as ***.",
            "{SMTP_PASSWORD: smtp}",
        ),
        Field(
            "user",
            USER,
            "Whom it runs as, where a policy allows it.",
            "www-data",
            default="the submitter",
        ),
        TIMEOUT,
        Field(
            "kill_after",
            duration(0, 3600),
            "How long it may take to end after SIGTERM.",
            "10s",
            default="10s",
            attribute="kill_after_s",
        ),
        Field(
            "limits",
            LIMITS,
            "What it may use of the machine; what is left out has no limit but the policy's.",
            "{memory: 512M, cpu: 150%}",
        ),
        Field(
            "retry",
            Record(
                (
                    Field(
                        "max", Count(0, 1000), "How often it is tried again.", "3", required=True
                    ),
                    Field(
                        "delay",
                        duration(0, 30 * 86400),
                        "How long after the first failure.",
                        "10s",
                        default="10s",
                        attribute="delay_s",
                    ),
                    Field(
                        "backoff",
                        factor(1, 100),
                        "By how much each delay is longer than the one before.",
                        "2",
                        default="2",
                    ),
                    Field(
                        "max_delay",
                        duration(0, 30 * 86400),
                        "The longest delay.",
                        "10m",
                        default="10m",
                        attribute="max_delay_s",
                    ),
                    Field(
                        "on",
                        Items(
                            Choice(
                                Reason,
                                (
                                    Reason.EXIT,
                                    Reason.SIGNAL,
                                    Reason.TIMEOUT,
                                    Reason.LIMIT,
                                    Reason.INTERRUPTED,
                                    Reason.EXECUTOR,
                                    Reason.ARTIFACT,
                                ),
                            )
                        ),
                        "After which reasons.",
                        "[exit, timeout, interrupted]",
                        default="exit and timeout",
                    ),
                ),
                Retry,
            ),
            "Whether it is tried again when it fails.",
            "{max: 3, delay: 10s}",
        ),
        Field(
            "queue",
            QUEUE,
            "The queue, a pool of slots, that it waits in.",
            "billing",
            default="default",
        ),
        Field(
            "priority",
            Count(-1000, 1000),
            "Higher goes first.",
            "10",
            default="0",
        ),
        Field(
            "concurrency",
            Record(
                (
                    Field(
                        "group",
                        Matching(WORD, "the name of a group of jobs"),
                        "Jobs with the same group count together.",
                        "customer-42",
                        required=True,
                        filled=True,
                    ),
                    Field(
                        "limit", Count(1, 1024), "How many of them run at once.", "1", default="1"
                    ),
                ),
                Concurrency,
                short="group",
            ),
            "Jobs that must not all run at once.",
            "{group: customer-42, limit: 1}",
        ),
        Field(
            "not_before",
            Moment(),
            "When it may start.",
            "2026-12-01T03:00:00Z",
        ),
        Field(
            "delay",
            duration(0, YEAR_S),
            "How long after its submission it may start. Instead of `not_before`.",
            "15m",
            attribute="delay_s",
        ),
        Field(
            "expires",
            duration(0.001, YEAR_S),
            "How long after its submission it may still start.",
            "2h",
            attribute="expires_s",
        ),
        Field(
            "needs",
            Items(ID),
            "Jobs that must be done first; if one fails, so does this one.",
            "[render-4711]",
        ),
        Field(
            "artifacts",
            Items(
                Record(
                    (
                        Field(
                            "path",
                            Below("work/"),
                            "A file or directory below work/, or a pattern of them.",
                            '"*.pdf"',
                            required=True,
                            filled=True,
                        ),
                        Field(
                            "required",
                            Boolean(),
                            "Whether the job fails without it.",
                            "true",
                            default="false",
                        ),
                        Field(
                            "when",
                            Choice(When),
                            "After what end of the job it is kept.",
                            "success",
                            default="always",
                        ),
                    ),
                    Artifact,
                    short="path",
                )
            ),
            "What is kept of work/.",
            '["*.pdf", {path: report/, required: true}]',
        ),
        Field(
            "callback",
            Record(
                (
                    Field(
                        "url",
                        Address(),
                        "Where the news are posted to.",
                        "https://backend.example/hook",
                        required=True,
                    ),
                    Field(
                        "events",
                        Items(Choice(News)),
                        "Which news it is told.",
                        "[started, finished]",
                        default="finished",
                    ),
                    Field("secret", SECRET, "The secret that signs them.", "backend"),
                ),
                Callback,
                short="url",
            ),
            "Whom to tell what becomes of it.",
            "https://backend.example/hook",
        ),
        Field(
            "labels",
            Table(WORD, "1 to 63 letters, digits or . _ / -", Text(1000)),
            "Names and values of yours; they come back in the result.",
            '{customer: "42"}',
            filled=True,
        ),
        Field(
            "on_duplicate",
            Choice(OnDuplicate),
            "If the id is taken: number it (ID.2), or reject it.",
            "reject",
            default="number",
        ),
    ),
    dict,
)

BESIDE_USES = frozenset(
    ("name", "labels", "on_duplicate", "not_before", "delay", "expires", "needs", "callback")
)
"""What a submitter may say of a job that a template describes, beside `uses` and `with`."""
