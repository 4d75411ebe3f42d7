"""The Debian package: what it brings, and that installing, upgrading, removing it ends no job."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import package
import pytest
from booted import Booted
from served import SPOOL, drop, entries, hold, release, result

from runnerd import __version__, events

pytestmark = [pytest.mark.heavy, pytest.mark.root]

CONFIG = "/etc/runnerd/runnerd.yaml"
VERIFY = ("systemd-analyze", "--man=no", "verify")
# What a Debian writes by itself, or what tells what once was there.
_LEFT_BY_OTHERS = re.compile(
    r"/(proc|sys|dev|run|tmp)(/|$)|/var/(cache|log|tmp|lib/(apt|dpkg|systemd|private))(/|$)"
    r"|/etc/(group|gshadow|\.pwd\.lock)-?$|/root"
)


def as_user(name: str) -> list[str]:
    return ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", "env", "HOME=/tmp"]


def install_alert(system: Booted) -> None:
    """As systemd/examples/alert.conf says; what is mailed goes to /run/mail."""
    examples = package.PROJECT / "systemd/examples"
    units = system.path("/etc/systemd/system")
    shutil.copy(examples / "alert@.service", units)
    (units / "runnerd.service.d").mkdir()
    shutil.copy(examples / "alert.conf", units / "runnerd.service.d")
    sendmail = system.path("/usr/sbin/sendmail")
    sendmail.write_text("#!/bin/sh\ncat >> /run/mail; echo END >> /run/mail\n")
    sendmail.chmod(0o755)


def test_a_member_of_the_group_drops_a_job_and_finds_its_result(system: Booted) -> None:
    assert system.run("systemctl", "is-active", "runnerd").strip() == "active"
    assert system.run("systemctl", "is-enabled", "runnerd").strip() == "enabled"
    system.run("useradd", "--groups", "runner", "alice")
    system.run("useradd", "bob")
    put = ["sh", "-c", f"echo 'run: id -un' > {SPOOL}/incoming/$0.yaml"]
    system.run(*as_user("alice"), *put, "hello")
    assert "ermission denied" in system.attempt(*as_user("bob"), *put, "nothing").stderr
    listing = system.attempt(*as_user("alice"), "ls", f"{SPOOL}/incoming")
    assert "ermission denied" in listing.stderr

    found = result(system, "hello")
    assert (found["state"], found["submitter"], found["user"]) == ("done", "alice", "alice")
    started, ended = entries(system, "JOB_ID=hello")
    assert (started["JOB_STATE"], ended["JOB_STATE"]) == ("running", "done")
    assert (started["JOB_USER"], ended["JOB_USER"]) == ("alice", "alice")
    assert ended["MESSAGE_ID"] == events.JobDone.message_id
    explained = system.run("journalctl", "--no-pager", "-x", "-u", "runnerd", "JOB_ID=hello")
    assert "Subject: Job hello is done" in explained  # the catalogue
    # The commands find the machine's spool by themselves.
    submit = ["sh", "-c", "echo 'run: exit 3' | runnerctl submit --wait -"]
    assert system.attempt(*as_user("alice"), *submit).returncode == 3
    assert system.run("runnerd", "--version") == f"runnerd {__version__}\n"
    modules = system.path("/usr/lib/python3/dist-packages/runnerd/__pycache__")
    assert (next(modules.glob("daemon.*.pyc"))).exists()  # made at installation


def test_debians_own_test_of_the_package_passes(system: Booted) -> None:
    shutil.copy(package.PROJECT / "packaging/debian/tests/drop", system.path("/srv/drop"))
    system.run("/srv/drop")


def complaints(system: Booted, *command: str) -> list[str]:
    """What systemd-analyze(1) finds wrong with units, but for what the unit explains."""
    done = system.attempt(*command)
    assert done.returncode == 0, done.stderr
    unknown = "Unknown key 'DelegateSubgroup' in section [Service], ignoring."
    lines = done.stderr.splitlines()
    return [each for each in lines if int(systemd_version(system)) >= 254 or unknown not in each]


def systemd_version(system: Booted) -> str:
    return system.run("systemctl", "--version").split()[1]


def test_the_units_are_good_and_what_is_not_hardened_has_its_reason(system: Booted) -> None:
    install_alert(system)
    units = ("runnerd.service", "runnerd@staging.service", "alert@runnerd.service.service")
    assert complaints(system, *VERIFY, *units) == []
    rated = json.loads(system.run("systemd-analyze", "security", "--json=short", "runnerd.service"))
    assert len(rated) > 50
    documented = (package.PROJECT / "systemd/HARDENING.md").read_text()
    settings = {each for item in rated for each in re.findall(r"[A-Za-z]+(?==)", item["name"])}
    assert {each for each in settings if f"{each}=" not in documented} == set()


def test_a_daemon_that_cannot_run_is_told_of_once(system: Booted) -> None:
    install_alert(system)
    system.run("systemctl", "daemon-reload")
    system.path(CONFIG).write_text("slots: 0\n")
    assert system.attempt("systemctl", "restart", "runnerd").returncode != 0
    mail = system.path("/run/mail")
    system.await_that(lambda: mail.exists() and "END" in mail.read_text(), "no mail comes")
    assert mail.read_text().startswith("Subject: runnerd.service failed on ")
    assert "expected a whole number from 1 to 1024" in mail.read_text()
    # Trying again would not help.
    assert system.show("runnerd", "ActiveState") == "failed"
    assert system.show("runnerd", "NRestarts") == "0"


def test_a_bad_reload_fails_and_changes_nothing_and_a_good_one_is_taken(system: Booted) -> None:
    config = system.path(CONFIG)
    shipped = config.read_text()
    before = system.show("runnerd", "MainPID")
    config.write_text(f"{shipped}\nqueues: {{billing: 1}}\n")
    system.run("systemctl", "reload", "runnerd")
    reloaded = f"MESSAGE_ID={events.Reloaded.message_id}"
    system.await_that(lambda: len(entries(system, reloaded)) == 1, "it does not reload")

    config.write_text(f"{shipped}\nqueues: {{billing: 0}}\n")
    refused = system.attempt("systemctl", "reload", "runnerd")
    assert refused.returncode != 0
    assert "journalctl" in refused.stderr  # where the reason is
    said = f"MESSAGE_ID={events.ReloadRefused.message_id}"
    system.await_that(lambda: len(entries(system, said)) == 1, "it is not refused")
    (entry,) = entries(system, said)
    assert f"{CONFIG}:" in str(entry["MESSAGE"])
    assert "`queues.billing`" in str(entry["MESSAGE"])
    drop(system, "old", "run: echo x\nqueue: billing\n")
    assert result(system, "old")["state"] == "done"

    config.write_text(f"{shipped}\nqueues: {{mail: 1}}\n")
    system.run("systemctl", "reload", "runnerd")
    system.await_that(lambda: len(entries(system, reloaded)) == 2, "it does not reload")
    drop(system, "new", "run: echo x\nqueue: mail\n")
    assert result(system, "new")["state"] == "done"
    assert system.run("systemctl", "is-active", "runnerd").strip() == "active"
    assert system.show("runnerd", "MainPID") == before


def test_restart_and_upgrade_end_no_job_and_keep_what_the_administrator_wrote(
    system: Booted, shared: Path
) -> None:
    other = system.path("/etc/runnerd/staging")
    other.mkdir()
    (other / "runnerd.yaml").write_text("spool: /srv/staging\n")
    system.run("systemctl", "enable", "--now", "runnerd@staging")
    spools = {"here": SPOOL, "there": "/srv/staging"}
    for name, spool in spools.items():
        hold(system, name, spool=spool)
    load = [f"load{number}" for number in range(30)]
    for name in load:
        drop(system, name, f"run: echo {name} >> /run/load")
    system.run("systemctl", "restart", "runnerd")
    assert {result(system, name)["state"] for name in load} == {"done"}
    assert sorted(system.path("/run/load").read_text().split()) == sorted(load)  # each of them once

    config = system.path(CONFIG)
    mine = config.read_text() + "\nslots: 7\n"
    config.write_text(mine)
    before = [system.show(each, "MainPID") for each in ("runnerd", "runnerd@staging")]
    # What an administrator answers, and unattended-upgrades is told: keep my file.
    package.install(system, package.higher(shared), "-oDpkg::Options::=--force-confold")
    assert config.read_text() == mine
    after = [system.show(each, "MainPID") for each in ("runnerd", "runnerd@staging")]
    assert not {*before, "0"} & set(after)
    (started, *_) = entries(system, f"MESSAGE_ID={events.DaemonStarted.message_id}")[::-1]
    assert str(started["MESSAGE"]) == f"runnerd {package.HIGHER} serves {SPOOL} with 7 slots"

    for name, spool in spools.items():
        release(system, name)
        assert result(system, name, spool=spool)["state"] == "done"
        log = system.path(f"{spool}/done/{name}/output.log")
        assert log.read_text() == "begun\nended\n"


def test_removal_keeps_the_spool_and_purge_leaves_nothing(bare: Booted, deb: Path) -> None:
    files = ["find", "/", "-xdev"]
    before = set(bare.run(*files).splitlines())
    package.install(bare, deb)
    bare.path("/etc/runnerd/jobs.d/mine.yaml").write_text("job: {run: x}\n")
    bare.path("/etc/runnerd/secrets/mine").write_text("secret\n")
    hold(bare, "held")
    hold(bare, "stays", then="sleep 1000")
    bare.run("apt-get", "remove", "-qq", "-y", "runnerd")
    assert bare.attempt("systemctl", "is-active", "runnerd").stdout.strip() != "active"
    release(bare, "held")
    assert result(bare, "held")["state"] == "done"
    assert bare.path(CONFIG).exists()
    package.install(bare, deb)
    drop(bare, "next", "run: echo x")
    assert result(bare, "next")["state"] == "done"

    bare.run("apt-get", "purge", "-qq", "-y", "runnerd")
    left = set(bare.run(*files).splitlines()) - before
    assert {each for each in left if not _LEFT_BY_OTHERS.match(each)} == set()
    bare.await_that(lambda: "runner" not in bare.run("ps", "-eo", "args"), "a runner is left")
    assert bare.attempt("pgrep", "-f", "stays").returncode == 1
    assert "runner" not in bare.run("systemctl", "list-units", "--all", "--plain", "runnerd*")


def test_a_user_has_a_spool_of_ones_own(system: Booted) -> None:
    system.run("useradd", "--create-home", "carol")
    uid = system.run("id", "-u", "carol").strip()
    system.run("systemctl", "start", f"user@{uid}")
    home = "/home/carol"
    user = [*as_user("carol"), f"HOME={home}", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
    system.run(*user, "sh", "-c", "mkdir -p ~/.config/runnerd; : > ~/.config/runnerd/runnerd.yaml")
    assert complaints(system, *user, *VERIFY, "--user", "runnerd.service") == []
    system.run(*user, "systemctl", "--user", "start", "runnerd")
    submit = [
        "sh",
        "-c",
        "printf 'run: |\\n  id -un\\n  pwd\\n' | runnerctl submit --wait --name x -",
    ]
    system.run(*user, *submit)
    spool = f"{home}/.local/state/runnerd/spool"
    assert result(system, "x", spool=spool)["user"] == "carol"
    log = system.path(f"{spool}/done/x/output.log").read_text()
    assert log == f"carol\n{spool}/running/x/work\n"
    system.run(*user, "systemctl", "--user", "reload", "runnerd")


def test_lintian_finds_nothing_and_no_finding_is_hidden_without_a_reason(deb: Path) -> None:
    (changes,) = deb.parent.glob("*.changes")
    command = ["lintian", "--allow-root", "--tag-display-limit", "0", str(changes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
    overrides = package.PROJECT / "packaging/debian/runnerd.lintian-overrides"
    reasoned = False
    for line in overrides.read_text().splitlines():
        assert line.startswith("#") or reasoned, line
        reasoned = line.startswith("#")
