"""A daemon of root and its users: each job runs as who dropped it, and only they may look."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

import runnerd
from runnerd.model import Reason, State

pytestmark = pytest.mark.root

MEMBER, STRANGER = "nobody", "games"  # accounts that every Debian has
GROUP = "nogroup"  # the primary group of the member, and of nobody else here


@pytest.fixture
def open_box() -> Iterator[SpoolBox]:
    """A spool that ordinary users can reach, and whose group may drop."""
    scratch = Path(tempfile.mkdtemp(prefix="runnerd-users-"))
    scratch.chmod(0o755)
    box = SpoolBox(scratch)
    yield box
    box.close()
    shutil.rmtree(scratch)


def by(user: str, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as somebody."""
    account = pwd.getpwnam(user)
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        cwd="/",
    )


def reachable_package() -> Path:
    """Where runnerd lies, if an ordinary user can run it there."""
    package = Path(runnerd.__file__).parent
    for needed in (Path(sys.executable), package):
        if by(MEMBER, "test", "-r", str(needed)).returncode != 0:
            pytest.skip(f"{needed} lies where ordinary users cannot go")
    return package


def drop_by(box: SpoolBox, user: str, name: str, job: str) -> None:
    """Drop as that user would: under a hidden name, then rename."""
    hidden, shown = box.path("incoming", f".{name}"), box.path("incoming", f"{name}.yaml")
    done = by(user, "sh", "-c", f"umask 077; cat > {hidden} && mv {hidden} {shown}", stdin=job)
    assert done.returncode == 0, done.stderr


def test_a_job_runs_as_who_dropped_it(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    script = "id -u; id -g; id -G; id -un; echo $HOME $USER $LOGNAME $SHELL; pwd; umask"
    drop_by(box, MEMBER, "job", f"run: {script}")
    result = box.result("job")
    account = pwd.getpwnam(MEMBER)
    groups = os.getgrouplist(MEMBER, account.pw_gid)
    assert box.output("job").splitlines() == [
        str(account.pw_uid),
        str(account.pw_gid),
        " ".join(map(str, groups)),
        MEMBER,
        f"{account.pw_dir} {MEMBER} {MEMBER} {account.pw_shell}",
        str(box.path("running", "job", "work")),
        "0022",
    ]
    assert (result.state, result.submitter, result.user) == (State.DONE, MEMBER, MEMBER)


def test_a_job_holds_no_right_of_the_daemon(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    drop_by(box, MEMBER, "job", "command: [grep, -E, '^(Uid|Gid|Cap|Groups)', /proc/self/status]")
    box.result("job")
    found = dict(line.split(":\t", 1) for line in box.output("job").splitlines())
    uid, gid = str(pwd.getpwnam(MEMBER).pw_uid), str(pwd.getpwnam(MEMBER).pw_gid)
    assert found["Uid"].split() == [uid] * 4
    assert found["Gid"].split() == [gid] * 4
    assert "0" not in found["Groups"].split()
    assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


def test_a_job_writes_below_work_only(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    job = (
        "run: |\n  echo mine > file\n  for name in result.json x status.json output.log; do\n"
        "    (echo forged > ../$name) 2>/dev/null && echo wrote $name\n  done\n"
        "  (rm -f ../output.log; mv ../output.log ../y) 2>/dev/null && echo moved\n"
        "  cat ../.claim 2>/dev/null && echo read the claim\n  echo told > /dev/stderr\n"
    )
    drop_by(box, MEMBER, "job", job)
    assert box.result("job").state is State.DONE
    assert box.output("job") == "told\n"
    assert box.path("done", "job", "work", "file").owner() == MEMBER
    assert box.path("done", "job", "result.json").owner() == "root"


@pytest.mark.parametrize(("job", "place"), [("run: echo secret", "done"), ("run: [", "failed")])
def test_only_the_submitter_may_look(open_box: SpoolBox, job: str, place: str) -> None:
    box = open_box
    box.start(group=GROUP)
    drop_by(box, MEMBER, "job", job)
    box.result("job")
    for name in ("result.json", "output.log", "job.yaml"):
        path = str(box.path(place, "job", name))
        assert by(MEMBER, "cat", path).returncode == 0
        assert by(STRANGER, "cat", path).returncode == 1
    assert by(STRANGER, "ls", str(box.path(place, "job"))).returncode == 2
    assert by(MEMBER, "touch", str(box.path(place, "job", "new"))).returncode == 1


def test_runnerctl_serves_an_ordinary_user(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    program = "from runnerd.ctl import main; main(prog_name='runnerctl')"
    path = f"PYTHONPATH={reachable_package().parent}"
    call = ["env", path, sys.executable, "-c", program, "--spool", str(box.root)]
    done = by(MEMBER, *call, "submit", "-", "--wait", stdin="run: exit 4")
    assert done.returncode == 4, done.stderr
    listed = by(MEMBER, *call, "list")
    assert "who is queued may be listed by the daemon's user only" in listed.stderr


def test_members_cannot_list_or_take_what_others_dropped(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    box.stop()
    box.drop("roots", "run: echo x")
    assert by(MEMBER, "ls", str(box.path("incoming"))).returncode == 2
    assert by(MEMBER, "rm", "-f", str(box.path("incoming", "roots.yaml"))).returncode == 1
    assert by(STRANGER, "touch", str(box.path("incoming", "x.yaml"))).returncode == 1


@pytest.mark.parametrize(
    ("uid", "part"),
    [
        (pwd.getpwnam(STRANGER).pw_uid, "no rule of the policy is for this user or its groups"),
        (54321, "has no account here"),
    ],
)
def test_who_may_not_drop_is_denied(open_box: SpoolBox, uid: int, part: str) -> None:
    box = open_box
    box.start(group=GROUP)
    ran = box.scratch / "ran"
    staged = box.scratch / "job.yaml"
    staged.write_text(f"run: touch {ran}")
    os.chown(staged, uid, grp.getgrnam(GROUP).gr_gid)
    staged.rename(box.path("incoming", "job.yaml"))
    result = box.result("job")
    assert (result.state, result.reason, result.user) == (State.FAILED, Reason.DENIED, None)
    assert part in result.message
    assert not ran.exists()


def test_a_hard_link_to_a_foreign_file_runs_nothing(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    ran, foreign = box.scratch / "ran", box.scratch / "roots.yaml"
    foreign.write_text(f"run: touch {ran}")
    os.link(foreign, box.path("incoming", "job.yaml"))
    assert box.result("job").reason is Reason.INVALID
    assert foreign.read_text() == f"run: touch {ran}"
    assert not ran.exists()


def test_what_the_user_cannot_execute_is_said(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    program = box.scratch / "private"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    drop_by(box, MEMBER, "job", f"command: [{program}]")
    result = box.result("job")
    assert (result.reason, result.exit_code) == (Reason.EXECUTOR, None)
    assert "Permission denied" in result.message


def test_a_killed_runner_takes_a_users_job_with_it(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP, slots=1)
    drop_by(box, MEMBER, "job", "run: sleep 1000")
    until(box.path("running", "job", "status.json").exists, "the job did not start")
    (runner,) = box.runners()
    (job,) = runner.children()
    runner.kill()
    assert box.result("job").reason is Reason.INTERRUPTED
    until(lambda: not job.is_running() or job.status() == "zombie", "the job lives")


def test_a_users_job_over_its_time_is_ended(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    drop_by(box, MEMBER, "job", "run: sleep 1000 & setsid sleep 1000 & wait\ntimeout: 0.2\n")
    assert box.result("job").reason is Reason.TIMEOUT


def test_the_descriptors_and_signals_of_a_users_job_are_as_clean(open_box: SpoolBox) -> None:
    box = open_box
    box.start(group=GROUP)
    script = "ls /proc/$$/fd; exec grep Sig[BI] /proc/self/status"
    drop_by(box, MEMBER, "job", f"command: [sh, -c, '{script}']")
    box.result("job")
    *fds, blocked, ignored = box.output("job").splitlines()
    assert fds == ["0", "1", "2"]
    assert int(blocked.split()[1], 16) == int(ignored.split()[1], 16) == 0


def test_what_a_daemon_without_rights_cannot_move_stops_nothing_else(open_box: SpoolBox) -> None:
    box = open_box
    reachable_package()
    box.user = MEMBER
    box.root.mkdir()
    shutil.chown(box.root, MEMBER, GROUP)
    os.chown(box._notify_dir, pwd.getpwnam(MEMBER).pw_uid, -1)  # noqa: SLF001
    Path(box._notify_dir, "socket").chmod(0o777)  # noqa: SLF001
    box.start(group=GROUP, rescan="0.2s")
    box.path("incoming", "roots.yaml").mkdir()
    until(lambda: "moved out of incoming/" in box.log.read_text(), "nothing was said")
    drop_by(box, MEMBER, "job", "run: id -un")
    assert box.result("job").state is State.DONE
    assert box.output("job") == f"{MEMBER}\n"
    assert box.log.read_text().count("moved out of incoming/") == 1
    assert "no new jobs are taken" not in box.log.read_text()


def test_a_file_of_roots_says_that_it_is_a_job(open_box: SpoolBox) -> None:
    """Root's own may have been moved here by anybody; runnerctl signs what it submits."""
    box = open_box
    box.start(group=GROUP)
    denied = box.run("moved", "run: id -un")
    assert denied.reason is Reason.DENIED
    assert "setfattr -n user.runnerd.job -v yes FILE" in denied.message
    job = box.api.submit({"run": "id -un"}, name="submitted")
    assert box.result(job.id).state is State.DONE
    assert box.output(job.id) == "root\n"
