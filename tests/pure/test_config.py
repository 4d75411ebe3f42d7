"""The administrator's file: defaults, faults and the copy that is shipped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from runnerd.config import CONFIG, Config, read_config
from runnerd.errors import Invalid
from runnerd.settings import Ceiling, Rule

SHIPPED = Path(__file__).parents[2] / "etc/runnerd.yaml"
SLOTS = "`slots`: expected a whole number from 1 to 1024, or auto"
RESCAN = "`rescan`: expected a duration from 0.1s to 1h, like 90s, 10m, 2h or 1d"
UNKNOWN = (
    "unknown field `zzz`: there are "
    "callbacks, channels, executors, group, inputs, metrics, policy, queues, rescan, "
    "retention, runner_idle, secrets, slots, spool, templates"
)
DEFAULTS = Config(slots=3)


@pytest.mark.parametrize("data", [b"", b"\n", b"# only a comment\n", b"---\n", b"---\n# x\n...\n"])
def test_an_empty_file_means_the_defaults(data: bytes) -> None:
    assert read_config(data, cpus=3) == DEFAULTS


def test_every_key_can_be_set() -> None:
    data = b"spool: /srv/x\nslots: 7\ngroup: www\nrunner_idle: 5m\nrescan: 500ms\n"
    data += b"templates: /srv/t\nsecrets: /srv/s\n"
    data += b"policy: [{users: [alice], executors: [], limits: {timeout: 1h}}]\n"
    assert read_config(data, cpus=3) == Config(
        spool="/srv/x",
        slots=7,
        group="www",
        runner_idle_s=300.0,
        rescan_s=0.5,
        templates="/srv/t",
        secrets="/srv/s",
        policy=(Rule(users=("alice",), executors=(), limits=Ceiling(timeout_s=3600.0)),),
    )


def test_without_a_policy_members_of_the_group_may_submit_shell_jobs() -> None:
    assert read_config(b"group: www", cpus=1).rules == (Rule(groups=("www",)),)
    assert read_config(b"policy: []", cpus=1).rules == ()
    assert Rule().executors == ("shell",)


def test_a_key_that_is_uncommented_in_the_shipped_file_changes_nothing() -> None:
    text = SHIPPED.read_text()
    assert read_config(text.encode(), cpus=3) == DEFAULTS
    for field in CONFIG.fields:
        one = re.sub(rf"^# ({field.name}: )", r"\1", text, flags=re.MULTILINE)
        assert one != text
        config = read_config(one.encode(), cpus=3)
        assert config.rules == DEFAULTS.rules
        assert config.queue_sizes["default"] == DEFAULTS.slots
        shown = {"spool": "/var/spool/runner", "templates": "/etc/runnerd/jobs.d"}
        shown["secrets"] = "/etc/runnerd/secrets"
        paths = {name: shown[name] for name in shown if name == field.name}
        seen = replace(config, policy=None, queues={}, channels={})
        assert seen == replace(DEFAULTS, **paths)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("slots: 0\n", 1, 8, SLOTS + ", found 0"),
        ("slots: 1025", 1, 8, SLOTS + ", found 1025"),
        ("slots: two", 1, 8, SLOTS + ", found 'two'"),
        ("slots: ٣", 1, 8, SLOTS + ", found '٣'"),
        ("slots: [1]", 1, 8, SLOTS + ", found a list"),
        ("spool: var/spool\n", 1, 8, "`spool`: expected an absolute path, found 'var/spool'"),
        ("group: a b\n", 1, 8, "`group`: expected the name of a group, found 'a b'"),
        ("\nslot: 1\n", 2, 1, "unknown field `slot`: did you mean `slots`?"),
        ("zzz: 1\n", 1, 1, UNKNOWN),
        ("rescan: 0\n", 1, 9, RESCAN + ", found '0'"),
    ],
)
def test_a_bad_value_is_told_with_its_place(
    text: str, line: int, column: int, message: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read_config(text.encode(), cpus=3)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.message) == (line, column, message)


def test_what_is_no_mapping_is_refused_and_not_taken_for_empty() -> None:
    with pytest.raises(Invalid, match="it must be a mapping"):
        read_config(b"- slots\n", cpus=3)
