"""The doctor: each thing that is really broken is found, and what is well is not complained of."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import resource
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from examined import (
    OF_THE_MACHINE,
    PROGRAM,
    Report,
    case,
    found_in,
    hung_daemon,
    spool,
)
from invariant import living
from spoolbox import PATIENCE_S, SpoolBox, until

from runnerd.ctl.case import Case
from runnerd.ctl.doctor import CHECKS, Line
from runnerd.ctl.findings import TABLE

pytestmark = pytest.mark.slow

GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture
def served(box: SpoolBox) -> SpoolBox:
    """A healthy spool with its daemon."""
    box.start()
    return box


@pytest.fixture
def left(box: SpoolBox) -> SpoolBox:
    """A healthy spool without one."""
    box.start()
    box.stop()
    return box


# --- all is well --------------------------------------------------------------------------------


def test_a_healthy_spool_gives_no_complaint(served: SpoolBox) -> None:
    gate = served.gate()
    served.secret("pw", "hunter22")
    (served.scratch / "secrets").chmod(0o700)
    served.template("t", "allow: {}\njob: {run: x}")
    for job_id, job in (("good", "run: echo x"), ("bad", "run: exit 3"), ("odd", "ran: x")):
        served.run(job_id, job)
    served.drop("runs", f"run: read x < {gate}")
    served.started("runs")
    served.drop("waits", "run: exit 1\nretry: {max: 1, delay: 1h, max_delay: 1h}")
    until(served.path("running", "waits", "output.1.log").exists, "no attempt was put away")
    served.drop("later", "run: x\ndelay: 1d")
    report = Report(served)
    assert report.done.returncode == 0
    complaints = [each for each in report.lines if each.verdict in ("wrong", "warning")]
    assert {each.finding for each in complaints} <= OF_THE_MACHINE
    assert list(dict.fromkeys(each.check for each in report.lines)) == list(CHECKS)
    of_the_spool = ("configuration", "secrets", "executors", "spool", "daemon", "descriptors")
    for check in (*of_the_spool, "incoming", "control", "jobs", "callbacks", "metrics"):
        assert {each.finding for each in report.of(check)} <= {None, "no-group"}, check
    assert os.listdir(served.path("control")) == []  # what it asked was taken
    # An hour later it is still well: a job may run and wait for as long as it likes.
    later = found_in(case(served, later_s=7200), "incoming", "control", "jobs", "callbacks")
    assert later == []
    gate.open()
    served.result("runs")
    assert "ping" not in served.log.read_text()


def test_for_people_it_is_a_line_for_each_thing(served: SpoolBox) -> None:
    served.path("incoming", "READ\nME").touch()
    command = [*PROGRAM, "--config", str(served.config_file), *spool(served), "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary = done.stdout.splitlines()
    assert {line.split()[1] for line in lines} == set(CHECKS)
    assert f"good     {'daemon':13} it serves, and answers" in lines
    (stray,) = [line for line in lines if "READ" in line]
    path = served.path("incoming", "READ")
    assert stray == (
        f"warning  {'incoming':13} {path}\\x0aME is no job, and stays where it is "
        "(remedy: remove or rename it)"
    )
    assert summary.startswith("wrong: 0, warnings: ")
    done = subprocess.run([*command, "daemon"], capture_output=True, text=True, check=False)
    assert done.stdout == f"good     {'daemon':13} it serves, and answers\nwrong: 0, warnings: 0\n"


def test_each_row_is_told_by_some_check() -> None:
    directory = Path(sys.modules[Case.__module__].__file__ or "").parent
    code = "".join(path.read_text() for path in directory.glob("check_*.py"))
    words = {word for word in TABLE if f'"{word}"' in code}
    assert words == set(TABLE)


# --- the configuration --------------------------------------------------------------------------


def test_a_broken_configuration_is_told_and_all_else_is_looked_at(left: SpoolBox) -> None:
    left.config_file.write_text("slots: 2\nslot: 3\n")
    report = Report(left)
    (line,) = report.of("configuration")
    assert line.finding == "config-broken"
    assert line.message.startswith(f"{left.config_file}:2:1: unknown field `slot`")
    assert report.of("executors")[0].message == "cannot tell: the configuration is broken"
    assert report.of("jobs")[0].verdict == "good"
    assert report.done.returncode == 1


def test_a_configuration_that_is_not_there_is_told(left: SpoolBox) -> None:
    left.config_file.unlink()
    assert "there is no such file" in Report(left).of("configuration")[0].message


def test_a_broken_template_is_told(served: SpoolBox) -> None:
    served.template("t", "job: {run: x}")
    assert "the field `allow` is missing" in Report(served).only("template-broken").message


def test_what_others_could_change_is_told(served: SpoolBox) -> None:
    served.scratch.chmod(0o777)
    line = Report(served).only("others-write")
    assert line.message.startswith(f"{served.scratch} has mode 0777, so others could change")
    assert line.remedy == f"chown root {served.scratch} && chmod go-w {served.scratch}"


@pytest.mark.root
def test_what_belongs_to_others_is_told(served: SpoolBox) -> None:
    (served.scratch / "secrets").mkdir(mode=0o700)
    os.chown(served.scratch / "secrets", 65534, -1)
    assert "belongs to uid 65534" in Report(served).only("others-write").message


def test_a_secret_that_others_can_read_is_told(served: SpoolBox) -> None:
    served.secret("good", "hunter22")
    served.secret("open", "hunter22", mode=0o644)
    (served.scratch / "secrets").chmod(0o700)
    line = Report(served).only("secret-unusable")
    assert "the secret open cannot be used: others than its owner can read it" in line.message
    assert "hunter22" not in Report(served).done.stdout


def test_names_of_secrets_that_others_can_list_are_told(served: SpoolBox) -> None:
    (served.scratch / "secrets").mkdir()
    (served.scratch / "secrets").chmod(0o755)
    assert Report(served).only("secrets-listed").remedy == f"chmod 0700 {served.scratch}/secrets"


def test_an_executor_that_is_broken_is_told(box: SpoolBox) -> None:
    programs = box.scratch / "executors"
    programs.mkdir(mode=0o755)
    (programs / "odd").write_text("#!/bin/sh\nexit 3\n")
    (programs / "odd").chmod(0o755)
    box.start(executors=programs)
    line = Report(box).only("executor-disabled")
    assert line.message.startswith("the executor odd is disabled: ")


@pytest.mark.parametrize(
    ("name", "metadata", "word", "part"),
    [
        ("psutil-1.0", "Name: psutil\nVersion: 1.0\n", "package-old", "psutil is 1.0, older than"),
        (
            "runnerd-9",
            "Name: runnerd\nVersion: 9\nRequires-Dist: no-such-package (>=1.0)\n",
            "package-missing",
            "no-such-package is not installed",
        ),
    ],
)
def test_a_package_that_is_old_or_missing_is_told(
    served: SpoolBox, name: str, metadata: str, word: str, part: str
) -> None:
    directory = served.scratch / "packages" / f"{name}.dist-info"
    directory.mkdir(parents=True)
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\n{metadata}")
    report = Report(served, env={"PYTHONPATH": str(directory.parent)})
    assert part in report.only(word).message


# --- metrics ------------------------------------------------------------------------------------


@pytest.fixture
def measured(box: SpoolBox) -> SpoolBox:
    """With a file of metrics."""
    file = box.scratch / "runnerd.prom"
    box.start(metrics=f"{{file: {file}, every: 1s}}")
    until(file.exists, "it is not written")
    return box


def test_metrics_that_are_not_written_are_told(measured: SpoolBox) -> None:
    assert Report(measured).of("metrics")[0].verdict == "good"
    (stale,) = found_in(case(measured, later_s=60), "metrics")
    assert stale.finding == "metrics-stale"
    measured.configure(metrics=f"{{file: {measured.scratch}/other.prom}}")
    assert "other.prom is not there" in Report(measured).only("metrics-absent").message


def test_metrics_without_their_package_are_told(measured: SpoolBox) -> None:
    packages = measured.scratch / "packages"
    packages.mkdir()
    (packages / "prometheus_client.py").write_text("raise ImportError('it is not here')\n")
    report = Report(measured, env={"PYTHONPATH": str(packages)})
    assert "it is not here" in report.only("metrics-package").message


# --- its directories ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "remedy"),
    [
        ("incoming", 0o1777, "run: chmod 1770 {}"),
        ("incoming", 0o730, "run: chmod +t {}"),
        ("done", 0o777, "run: chmod 0755 {}"),
        ("outbox", 0o755, "run: chmod 0700 {}"),
        (".", 0o775, "run: chmod 0755 {}"),
    ],
)
def test_a_mode_that_lets_others_in_is_told(
    left: SpoolBox, name: str, mode: int, remedy: str
) -> None:
    path = left.root / name
    path.chmod(mode)
    line = next(each for each in Report(left).lines if each.finding == "place-unfit")
    assert line.message.startswith(f"{path} has mode {mode:04o}")
    assert line.remedy == remedy.format(path)


@pytest.mark.root
def test_an_owner_that_is_not_the_daemons_is_told(left: SpoolBox) -> None:
    os.chown(left.path("done"), 65534, -1)
    line = next(each for each in Report(left).lines if each.finding == "place-unfit")
    assert line.message.endswith("belongs to uid 65534, the daemon runs as uid 0")


def test_a_directory_that_is_missing_or_something_else_is_told(left: SpoolBox) -> None:
    left.path("control").rmdir()
    left.path("done").rmdir()
    left.path("done").write_text("")
    report = Report(left)
    assert {each.finding for each in report.of("spool")} >= {"place-missing", "place-unfit"}
    assert report.done.returncode == 1


def test_a_spool_that_is_not_there_is_told(box: SpoolBox) -> None:
    box.configure()
    report = Report(box)
    assert report.of("spool")[0].message == f"{box.root} is no spool"
    assert report.of("daemon")[0].finding == "not-served"
    assert {each.verdict for each in report.of("jobs")} == {"unknown"}
    assert report.done.returncode == 1


@pytest.mark.root
def test_a_drop_box_that_its_group_cannot_use_is_told(box: SpoolBox) -> None:
    box.start(group=GROUP)
    assert Report(box).of("spool")[0].verdict == "good"
    box.path("incoming").chmod(0o700)
    line = Report(box).only("drop-shut")
    assert line.remedy == (
        f"chgrp {GROUP} {box.path('incoming')} && chmod 1730 {box.path('incoming')}"
    )


@pytest.mark.root
def test_a_group_that_does_not_exist_is_told(box: SpoolBox) -> None:
    box.start(group="no-such-group")
    assert "there is no group no-such-group" in Report(box).only("no-group").message


# --- the daemon ---------------------------------------------------------------------------------


def test_a_spool_without_a_daemon_is_told(left: SpoolBox) -> None:
    line = Report(left).only("not-served")
    assert line.message == f"no daemon serves {left.root}"


def test_a_daemon_that_was_halted_is_told(served: SpoolBox) -> None:
    assert served.daemon is not None
    served.daemon.send_signal(signal.SIGSTOP)
    until(
        lambda: psutil.Process(served.daemon.pid).status() == "stopped",  # type: ignore[union-attr]
        "it goes on",
    )
    try:
        line = Report(served).only("daemon-halted")
        assert line.message == f"the daemon, pid {served.daemon.pid}, is stopped"
    finally:
        served.daemon.send_signal(signal.SIGCONT)


def test_a_daemon_that_does_not_answer_is_told(left: SpoolBox) -> None:
    left.configure(rescan="0.1s")
    with hung_daemon(left):
        line = Report(left).only("no-answer")
    assert line.message == "the daemon took no request within 2.2s"
    left.start()
    until(lambda: not os.listdir(left.path("control")), "the request stays")


def test_a_pause_is_told(served: SpoolBox) -> None:
    served.control("pause")
    until((served.root / ".paused").exists, "it is not paused")
    line = Report(served).only("paused")
    assert line.remedy == "runnerctl resume"


def test_too_few_descriptors_are_told(served: SpoolBox) -> None:
    assert served.daemon is not None
    _, hard = resource.prlimit(served.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.daemon.pid, resource.RLIMIT_NOFILE, (60, hard))
    line = Report(served).only("few-descriptors")
    assert line.message == "the daemon may open 60 files; for 2 slots it should be 72"


def test_inotify_that_is_used_up_is_told(served: SpoolBox) -> None:
    # A user namespace has limits of its own, below those of the machine.
    limit = "/proc/sys/user/max_inotify_instances"
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", f'echo 0 > {limit}; exec "$@"']
    if subprocess.run([*inside, "sh", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine gives nobody a namespace of users")
    command = [*PROGRAM, "--config", str(served.config_file), *spool(served), "doctor", "--json"]
    done = subprocess.run([*inside, "sh", *command], capture_output=True, text=True, check=False)
    (line,) = [each for each in json.loads(done.stdout) if each["check"] == "inotify"]
    assert line["finding"] == "no-watch", done.stdout
    assert "jobs start up to 10s late" in line["message"]


# --- the engine ---------------------------------------------------------------------------------


class Ping(BaseHTTPRequestHandler):
    """Answers as an engine does, or as a sick one."""

    status = 200

    def do_GET(self) -> None:  # its base class's interface
        assert self.path == "/_ping"
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "a Unix socket"


@pytest.fixture
def docker_socket() -> Iterator[Path]:
    """Not below a test's directory: the path of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="engine-") as directory:
        yield Path(directory) / "docker.sock"


def engine_lines(box: SpoolBox, policy: str = "[]") -> list[Line]:
    box.start(policy=policy)
    lines = Report(box).of("engine")
    box.stop()
    return lines


def test_an_engine_that_is_dead_is_told(
    box: SpoolBox, docker_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{docker_socket}")
    (line,) = engine_lines(box, policy='[{users: [games], executors: [docker], images: ["*"]}]')
    assert line.finding == "engine-needed"
    why = f"the engine at unix://{docker_socket} cannot be used: No such file or directory"
    assert why in line.message
    box.template("t", "allow: {}\njob: {docker: {image: x}, executor: docker, run: x}")
    assert engine_lines(box)[0].finding == "engine-needed"
    steps = "{steps: [{executor: docker, docker: {image: x}, run: x}]}"
    box.template("t", f"allow: {{}}\njob: {steps}")
    assert engine_lines(box)[0].finding == "engine-needed"
    (box.scratch / "jobs.d" / "t.yaml").unlink()
    assert engine_lines(box)[0].finding == "engine-idle"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(docker_socket))
    dead.close()
    assert "Connection refused" in engine_lines(box)[0].message


@pytest.mark.parametrize(("status", "part"), [(200, None), (500, "it answers with 500")])
def test_an_engine_is_asked(
    box: SpoolBox,
    docker_socket: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    part: str | None,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{docker_socket}")
    handler = type("Handler", (Ping,), {"status": status})
    with socketserver.UnixStreamServer(str(docker_socket), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            (line,) = engine_lines(box)
        finally:
            server.shutdown()
            thread.join()
    assert (line.verdict == "good") == (part is None)
    assert part is None or part in line.message


def test_containers_that_may_be_left_are_told(left: SpoolBox) -> None:
    (left.root / ".sweep").touch()
    assert "sweep-owed" not in Report(left).words()
    assert "sweep-owed" in {each.finding for each in found_in(case(left, later_s=3600), "engine")}


# --- the clock ----------------------------------------------------------------------------------


def test_files_of_the_future_are_told(served: SpoolBox) -> None:
    ahead = time.time() + 7200
    os.utime(served.path("done"), (ahead, ahead))
    line = Report(served).only("from-future")
    assert line.message.startswith(f"{served.path('done')} was changed ")


# --- what lies there ----------------------------------------------------------------------------


def test_strays_are_told_and_what_is_being_written_is_not(served: SpoolBox) -> None:
    incoming = served.path("incoming")
    for name in ("notes.txt", ".new.yaml", "new.yaml.part", ".old.yaml"):
        (incoming / name).touch()
    long_ago = time.time() - 7200
    os.utime(incoming / ".old.yaml", (long_ago, long_ago))
    (incoming / "half").mkdir()
    report = Report(served)
    assert {each.finding for each in report.of("incoming")} == {"stray", "leftover"}
    (stray,) = [each for each in report.of("incoming") if each.finding == "stray"]
    assert stray.message.startswith(f"{incoming}/notes.txt is no job")
    (old,) = [each for each in report.of("incoming") if each.finding == "leftover"]
    assert old.message.startswith(f"{incoming}/.old.yaml was begun 2h")
    later = found_in(case(served, later_s=7300), "incoming")
    assert {each.message.split()[0] for each in later if each.finding == "leftover"} == {
        str(incoming / name) for name in (".new.yaml", "new.yaml.part", ".old.yaml", "half")
    }


def test_of_many_strays_a_few_are_told(served: SpoolBox) -> None:
    for number in range(25):
        served.path("incoming", f"{number}.txt").touch()
    lines = Report(served).of("incoming")
    assert len(lines) == 11
    assert lines[-1].message == "and 15 more like this: stray"


def test_requests_that_nobody_knows_or_answers_are_told(left: SpoolBox) -> None:
    left.path("control", "stop").touch()
    left.path("control", "x.cancel").touch()
    with hung_daemon(left):
        lines = found_in(case(left, later_s=120), "control")
    assert [each.finding for each in lines] == ["request-stray", "request-stuck"]
    assert lines[1].message.startswith(f"{left.path('control')}/x.cancel was not answered for ")
    # While no daemon serves, what waits there is no sign of anything.
    assert [each.finding for each in found_in(case(left, later_s=120), "control")] == [
        "request-stray"
    ]


def test_a_thing_that_cannot_be_taken_is_told(left: SpoolBox) -> None:
    os.mkfifo(left.path("incoming", "x.yaml"))
    with hung_daemon(left):
        assert found_in(case(left), "incoming") == []
        (line,) = found_in(case(left, later_s=120), "incoming")
    assert line.finding == "file-stuck"


# --- jobs ---------------------------------------------------------------------------------------


def test_a_job_that_nobody_looks_after_is_told(served: SpoolBox) -> None:
    gate = served.gate()
    served.drop("cut", f"run: read x < {gate}")
    served.started("cut")
    served.kill()
    doomed = living(served.root)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, PATIENCE_S)
    report = Report(served)
    (line,) = report.of("jobs")
    assert line.finding == "job-left"
    assert line.message.startswith(f"{served.path('running')}/cut has no runner")
    with hung_daemon(served):
        assert found_in(case(served), "jobs") == []  # it may be about to
        (line,) = found_in(case(served, later_s=120), "jobs")
    assert (line.finding, line.verdict) == ("job-unattended", "wrong")
    served.start()
    served.result("cut")
    assert Report(served).of("jobs")[0].verdict == "good"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("harm", [tear, Path.unlink])
def test_a_result_that_is_not_whole_is_told(
    served: SpoolBox, harm: Callable[[Path], object]
) -> None:
    for job_id in ("a", "b"):
        served.run(job_id, "run: echo x")
    harm(served.path("done", "a", "result.json"))
    line = Report(served).only("result-broken")
    assert line.message.startswith(f"{served.path('done', 'a', 'result.json')}: ")
    assert line.remedy == "stop runnerd, then: runnerctl fsck --repair"


# --- callbacks ----------------------------------------------------------------------------------


def test_callbacks_that_are_late_given_up_or_damaged_are_told(box: SpoolBox) -> None:
    log = "{log: {command: [/bin/false]}}"
    box.start(channels=log, callbacks='{url: "command:log"}')
    box.run("j", "run: echo x")
    assert found_in(case(box), "callbacks") == []
    (late,) = found_in(case(box, later_s=7200), "callbacks")
    assert (late.finding, late.message[:30]) == ("callbacks-late", "callbacks wait to be told: 1, ")
    box.stop()
    box.path("outbox", "x.damaged").touch()
    box.start(channels=log, callbacks='{url: "command:log", give_up: 1s}')
    box.control("j.tell")
    until(
        lambda: (
            {each.finding for each in found_in(case(box), "callbacks")}
            == {"dead-letters", "entry-damaged"}
        ),
        "it is not given up",
    )
    assert Report(box).done.returncode == 0


# --- who may see what ---------------------------------------------------------------------------


@pytest.mark.root
def test_what_only_root_may_see_is_no_fault() -> None:
    with tempfile.TemporaryDirectory(prefix="runnerd-doctor-") as directory:
        Path(directory).chmod(0o755)
        box = SpoolBox(Path(directory))
        try:
            box.start(group="nogroup")
            box.secret("pw", "hunter22")
            box.run("j", "run: echo x")
            box.config_file.chmod(0o644)
            lines = {each["check"]: each for each in as_nobody(box)}
        finally:
            box.close()
    for check in ("secrets", "incoming", "control", "jobs", "callbacks"):
        assert lines[check]["verdict"] == "unknown", lines[check]
        assert lines[check]["message"] == "cannot tell: needs root"
    for check in ("configuration", "spool", "space", "daemon", "descriptors", "inotify"):
        assert lines[check]["verdict"] == "good", lines[check]


def as_nobody(box: SpoolBox) -> list[dict[str, str]]:
    """What the doctor tells an ordinary user, whether or not that one can start a Python here."""
    words = ["--config", str(box.config_file), *spool(box), "doctor", "--json"]
    program = (
        "import contextlib, io, os\n"
        "from runnerd.ctl import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({words})  # loads all that there is to be loaded\n"
        "os.setgroups([])\n"
        "os.setresgid(65534, 65534, 65534)\n"
        "os.setresuid(65534, 65534, 65534)\n"
        f"main({words})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found
