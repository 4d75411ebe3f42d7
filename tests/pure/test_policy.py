"""Policy: who may do what, as a table of wishes and rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from anyfile import MEMBER, SETUP

from runnerd import records
from runnerd.admit import Accepted
from runnerd.configfile import Setup
from runnerd.errors import Denied
from runnerd.model import Callback, Docker, IoShare, JobSpec, Limits, Mount, Ssh, Step, Use
from runnerd.policy import Who, authorise
from runnerd.settings import Allow, Ceiling, Rule

ALICE = Who(user="alice", uid=1001, groups=frozenset(["alice", "runner", "staff"]))
ROOT = Who(user="root", uid=0, groups=frozenset(["root"]), trusted=True)
SHELL = Step(run="x")
DATA = Mount(source="/srv/data", target="/srv/data", read_only=False)
PROTECTED = Mount(source="/srv/data", target="/srv/data", read_only=True)


def job(**more: Any) -> JobSpec:
    return JobSpec(**{"steps": (SHELL,), **more})


def container(*mounts: Mount, **more: Any) -> JobSpec:
    docker = Docker(image="registry.example/php:8.3", mounts=mounts, **more)
    auth = () if docker.registry_auth is None else (docker.registry_auth,)
    step = Step(executor="docker", run="x", options=records.plain(docker), secrets=auth)
    return job(steps=(step,))


def denied(spec: JobSpec, *rules: Rule, allow: Allow | None = None) -> list[str]:
    """The fields that were denied; nothing if the job may run."""
    try:
        authorise(spec, ALICE, rules, allow=allow)
    except Denied as refused:
        return [problem.code for problem in refused.problems]
    return []


def rule(**more: Any) -> Rule:
    return Rule(**{"groups": ("runner",), **more})


def remote(host: str, **more: Any) -> JobSpec:
    ssh = Ssh(host=host, **more)
    names = () if ssh.identity is None else (ssh.identity,)
    return job(steps=(Step(executor="ssh", run="x", options=records.plain(ssh), secrets=names),))


SSH = {"executors": ("ssh",), "hosts": ("web*.example.org",)}
DOCKER = {"executors": ("docker",), "images": ("registry.example/*",)}


@pytest.mark.parametrize(
    ("spec", "given", "fields"),
    [
        (job(), {}, []),
        (job(), {"groups": (), "users": ("alice",)}, []),
        (job(), {"groups": ("www",), "users": ("bob",)}, ["submitter"]),
        (job(), {"executors": ()}, ["executor"]),
        (job(), {"executors": ("docker",)}, ["executor"]),
        (job(user="alice"), {}, []),
        (job(user="root"), {}, ["user"]),
        (job(user="root"), {"run_as": ("www-data",)}, ["user"]),
        (job(user="www-data"), {"run_as": ("www-data",)}, []),
        (job(secrets={"A": "smtp"}), {}, ["secrets"]),
        (job(secrets={"A": "smtp"}), {"secrets": ("smtp",)}, []),
        (job(secrets={"A": "smtp-1", "B": "db"}), {"secrets": ("smtp-*",)}, ["secrets"]),
        (job(queue="billing"), {}, ["queue"]),
        (job(queue="billing"), {"queues": ("billing",)}, []),
        (job(timeout_s=3600.0), {"limits": Ceiling(timeout_s=3600.0)}, []),
        (job(timeout_s=3601.0), {"limits": Ceiling(timeout_s=3600.0)}, ["timeout"]),
        (job(callback=Callback(url="https://a.example:1/x")), {}, ["callback"]),
        (job(callback=Callback(url="https://A.example/")), {"callbacks": ("a.example",)}, []),
        (job(callback=Callback(url="https://b.example/")), {"callbacks": ("a.*",)}, ["callback"]),
        (
            job(callback=Callback(url="https://a.example/", secret="s")),  # noqa: S106
            {"callbacks": ("*",)},
            ["callback"],
        ),
        (remote("web1.example.org"), {"executors": ("ssh",)}, ["ssh"]),
        (remote("web1.example.org"), {"hosts": ("web*.example.org",)}, ["executor"]),
        (remote("web1.example.org"), SSH, []),
        (remote("db1.example.org"), SSH, ["ssh"]),
        (remote("WEB1.example.org"), SSH, ["ssh"]),
        (remote("web1.example.org", identity="deploy"), SSH, ["ssh"]),
        (remote("web1.example.org", identity="deploy"), {**SSH, "secrets": ("deploy",)}, []),
        (container(), {"executors": ("docker",)}, ["docker"]),
        (container(), DOCKER, []),
        (container(registry_auth="r"), DOCKER, ["docker"]),
        (container(DATA), DOCKER, ["docker"]),
        (container(DATA), {**DOCKER, "mounts": (PROTECTED,)}, ["docker"]),
        (container(PROTECTED), {**DOCKER, "mounts": (PROTECTED,)}, []),
        (container(DATA), {**DOCKER, "mounts": (DATA,)}, []),
        (container(network="none"), DOCKER, []),
        (container(network="bridge"), DOCKER, ["docker"]),
        (container(network="host"), {**DOCKER, "networks": ("bridge",)}, ["docker"]),
        (container(network="customer-1"), {**DOCKER, "networks": ("customer-*",)}, []),
        (container(user="root"), DOCKER, ["docker"]),
        (container(user="root"), {**DOCKER, "container_users": ("1000",)}, ["docker"]),
        (container(user="root:root"), {**DOCKER, "container_users": ("root",)}, ["docker"]),
        (container(user="1000"), {**DOCKER, "container_users": ("1000",)}, []),
        (container(cap_add=("CHOWN", "SYS_ADMIN")), DOCKER, ["docker", "docker"]),
        (
            container(cap_add=("CHOWN", "ALL")),
            {**DOCKER, "capabilities": ("CHOWN",)},
            ["docker"],
        ),
        (
            container(Mount(source="/srv/data2", target="/x", read_only=True)),
            {**DOCKER, "mounts": (DATA,)},
            ["docker"],
        ),
        (
            container(Mount(source="/srv/data/a", target="/x", read_only=False)),
            {**DOCKER, "mounts": (DATA,)},
            [],
        ),
    ],
)
def test_a_rule_gives_what_it_says(spec: JobSpec, given: dict[str, Any], fields: list[str]) -> None:
    assert denied(spec, rule(**given)) == fields


def test_without_a_rule_nobody_may_do_anything() -> None:
    assert denied(job()) == ["submitter"]


def test_rights_are_not_gathered_from_several_rules() -> None:
    """Or a rule's limit would not hold for what the rule gives."""
    spec = job(user="www-data", secrets={"A": "smtp"})
    assert denied(spec, rule(run_as=("www-data",)), rule(secrets=("smtp",))) == ["secrets"]
    assert denied(spec, rule(), rule(run_as=("www-data",), secrets=("smtp",))) == []


def test_a_job_without_a_timeout_gets_the_longest_that_the_rule_allows() -> None:
    limited = rule(limits=Ceiling(timeout_s=60.0))
    assert authorise(job(), ALICE, [limited]).timeout_s == 60.0
    assert authorise(job(timeout_s=5.0), ALICE, [limited]).timeout_s == 5.0
    assert authorise(job(), ALICE, [rule(), limited]).timeout_s is None


def test_a_denial_names_the_rule_that_is_missing() -> None:
    with pytest.raises(Denied) as caught:
        authorise(job(user="root", secrets={"A": "smtp"}), ALICE, [rule(executors=()), rule()])
    assert [problem.message for problem in caught.value.problems] == [
        f"alice (uid 1001) may not {what}: the policy has no rule for it with `{missing}`"
        for what, missing in [
            ("run jobs as root", "run_as: [root]"),
            ("use the secret smtp", "secrets: [smtp]"),
        ]
    ]


@pytest.mark.parametrize(
    ("allow", "fields"),
    [
        (Allow(users=("alice",)), []),
        (Allow(groups=("staff",)), []),
        (Allow(users=("bob",), groups=("www",)), ["uses"]),
        (Allow(), ["uses"]),
        (None, ["uses"]),
    ],
)
def test_a_template_says_itself_who_may_use_it(allow: Allow | None, fields: list[str]) -> None:
    spec = job(steps=(Step(uses=Use(template="site")),))
    assert denied(spec, allow=allow) == fields
    assert denied(spec, rule(executors=()), allow=allow) == fields


def test_the_callback_of_a_template_job_is_the_submitters_and_needs_a_rule() -> None:
    spec = job(
        steps=(Step(uses=Use(template="site")),), callback=Callback(url="https://a.example/")
    )
    allow = Allow(users=("alice",))
    assert denied(spec, allow=allow) == ["submitter"]
    assert denied(spec, rule(executors=()), allow=allow) == ["callback"]
    assert denied(spec, rule(executors=(), callbacks=("a.example",)), allow=allow) == []


def test_the_daemons_own_user_needs_no_rule() -> None:
    spec = job(user="www-data", secrets={"A": "smtp"})
    assert authorise(spec, ROOT, []) == spec


LIMITED = Ceiling(memory_bytes=1 << 30, processes=64, nice=-5)


@pytest.mark.parametrize(
    ("limits", "ceiling", "fields"),
    [
        (Limits(memory_bytes=1 << 30), LIMITED, []),
        (Limits(memory_bytes=2 << 30, processes=65), LIMITED, ["limits", "limits"]),
        (Limits(nice=19), Ceiling(), []),
        (Limits(nice=-1), Ceiling(), ["limits"]),
        (Limits(nice=-5), LIMITED, []),
        (Limits(nice=-6), LIMITED, ["limits"]),
        (Limits(io=IoShare.IDLE), Ceiling(), []),
        (Limits(io=IoShare.HIGH), Ceiling(), ["limits"]),
        (Limits(io=IoShare.HIGH), Ceiling(io=IoShare.HIGH), []),
    ],
)
def test_a_limit_beyond_the_rules_is_denied(
    limits: Limits, ceiling: Ceiling, fields: list[str]
) -> None:
    assert denied(job(limits=limits), rule(limits=ceiling)) == fields


def test_what_was_not_asked_for_is_limited_as_the_rule_says() -> None:
    given = authorise(job(limits=Limits(processes=5)), ALICE, [rule(limits=LIMITED)])
    assert given.limits == Limits(memory_bytes=1 << 30, processes=5)
    assert authorise(job(), ALICE, [rule()]).limits is None


def test_the_queue_default_is_for_everybody() -> None:
    assert denied(job(queue="default"), rule()) == []


def test_a_verdict_is_kept_for_the_same_bytes_submitter_and_setup_only() -> None:
    accepted = Accepted()

    def verdict(data: bytes = b"run: x", setup: Setup = SETUP, who: Who = ROOT) -> object:
        return accepted.judge_text("j.yaml", data, setup, who)[0]

    assert verdict() is verdict()
    others: list[dict[str, Any]] = [
        {"data": b"run: y"},
        {"setup": replace(SETUP, secrets=Path("/"))},
        {"who": MEMBER},
    ]
    for other in others:
        kept = verdict()
        assert verdict(**other) is not kept
        accepted.forget("j.yaml")
    kept = verdict()
    accepted.forget("j.yaml")
    assert verdict() is not kept
