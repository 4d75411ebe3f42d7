"""runnerctl as people and scripts use it: a program with output and an exit status."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

from runnerd import units

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]


def ctl(
    box: SpoolBox, *words: str | Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--spool", str(box.root), *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_submit_prints_the_id(box: SpoolBox) -> None:
    box.start()
    file = box.scratch / "invoice.yaml"
    file.write_text("run: echo x")
    assert ctl(box, "submit", file).stdout == "invoice\n"
    assert ctl(box, "submit", file, "--name", "other").stdout == "other\n"
    assert json.loads(ctl(box, "submit", file, "--json").stdout) == {"id": "invoice.2"}
    for job_id in ("invoice", "other", "invoice.2"):
        assert box.result(job_id).exit_code == 0


def test_submit_reads_standard_input_and_waits(box: SpoolBox) -> None:
    box.start()
    done = ctl(box, "submit", "-", "--wait", stdin="run: exit 9")
    assert done.returncode == 9
    assert "failed (exit), the job exited with status 9" in done.stdout
    assert ctl(box, "submit", "-", "--wait", stdin="run: 'true'").returncode == 0
    assert ctl(box, "submit", "-", "--wait", stdin="run: kill $$").returncode == 128 + 15
    assert ctl(box, "submit", "-", "--wait", stdin="ran: x").returncode == 125


def test_list_and_show(box: SpoolBox) -> None:
    gate = box.gate()
    box.start(slots=1)
    box.run("good", "name: All well\nrun: echo x")
    box.run("bad", "run: exit 3")
    box.drop("now", f"run: read x < {gate}")
    until(box.path("running", "now", "status.json").exists, "the job did not start")
    box.drop("later", "run: echo x")
    rows = {row["id"]: row for row in json.loads(ctl(box, "list", "--json").stdout)}
    states = {job_id: row["state"] for job_id, row in rows.items()}
    assert states == {"later": "queued", "now": "running", "good": "done", "bad": "failed"}
    assert rows["bad"]["reason"] == "exit"
    assert "All well" not in ctl(box, "list", "--state", "failed").stdout
    assert json.loads(ctl(box, "show", "bad", "--json").stdout)["exit_code"] == 3
    assert json.loads(ctl(box, "show", "now", "--json").stdout)["state"] == "running"
    assert "state:         queued" in ctl(box, "show", "later").stdout
    missing = ctl(box, "show", "never")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("runnerctl: 'never': there is no such job")
    gate.open()
    box.result("later")


def test_logs_follow_a_job_to_its_end(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: |\n  echo first\n  read x < {gate}\n  echo last\n")
    until(box.path("running", "j").exists, "the job was not claimed")
    command = [*PROGRAM, "--spool", str(box.root), "logs", "-f", "j"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"first\n"
        gate.open()
        assert follower.stdout.read() == b"last\n"
    assert follower.returncode == 0
    assert ctl(box, "logs", "j").stdout == "first\nlast\n"


def test_what_a_job_prints_does_not_move_the_cursor(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: printf 'a\\033[2Jb\\rc\\n'")
    assert ctl(box, "logs", "j").stdout == "a\x1b[2Jb\rc\n".replace("\r", "\n")  # text mode
    assert on_a_terminal(box, "logs", "j") == b"a\\x1b[2Jb\\x0dc\r\n"


def on_a_terminal(box: SpoolBox, *words: str) -> bytes:
    """What runnerctl writes to a terminal."""
    ours, theirs = pty.openpty()
    written = b""
    with subprocess.Popen([*PROGRAM, "--spool", str(box.root), *words], stdout=theirs):
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
            while piece := os.read(ours, 65536):
                written += piece
    os.close(ours)
    return written


def test_a_letter_is_not_torn_in_a_long_log(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: for i in 0 1 2 3; do head -c 65535 /dev/zero | tr '\\0' a; printf ü; done")
    assert on_a_terminal(box, "logs", "j").decode() == ("a" * 65535 + "ü") * 4


def test_whoever_reads_only_the_start_of_a_log_gets_no_traceback(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: head -c 10000000 /dev/zero")
    command = [*PROGRAM, "--spool", str(box.root), "logs", "j"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        assert reader.stdout.read(1) == b"\0"
        reader.stdout.close()
        assert reader.stderr.read() == b""
    assert reader.returncode == 1


def test_wait_exits_as_the_job_did(box: SpoolBox) -> None:
    box.start()
    box.drop("good", "run: 'true'")
    box.drop("bad", "run: exit 5")
    box.result("good")
    box.result("bad")
    box.run("worse", "run: exit 7")
    assert ctl(box, "wait", "good").returncode == 0
    assert ctl(box, "wait", "good", "bad", "worse").returncode == 5
    assert ctl(box, "wait", "never").returncode == 1


def test_wait_gives_up_when_asked_to(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: read x < {gate}")
    until(box.path("running", "j").exists, "the job was not claimed")
    assert ctl(box, "wait", "--timeout", "0.1", "j").returncode == 124
    gate.open()
    assert box.result("j").exit_code == 0


def test_validate_answers_files_and_directories(box: SpoolBox) -> None:
    folder = box.scratch / "jobs"
    folder.mkdir()
    (folder / "good.yaml").write_text("run: echo x")
    (folder / "bad.yml").write_text("run: echo x\ntimout: 5\n")
    done = ctl(box, "validate", folder)
    assert done.returncode == 1
    assert done.stdout == (
        f"{folder}/bad.yml:2:1: unknown field `timout`: did you mean `timeout`?\n"
        "    2 | timout: 5\n"
        "      | ^\n"
        f"{folder}/good.yaml: good\n"
    )
    assert ctl(box, "validate", folder / "good.yaml").returncode == 0
    told = json.loads(ctl(box, "validate", "--json", folder).stdout)
    assert [(each["valid"], len(each["errors"])) for each in told] == [(False, 1), (True, 0)]
    assert "Traceback" not in ctl(box, "validate", box.scratch / "none.yaml").stderr
    assert ctl(box, "validate", box.scratch / "none.yaml").returncode == 1


def test_run_needs_no_daemon_and_keeps_nothing(box: SpoolBox) -> None:
    file = box.scratch / "odd name!.yaml"
    file.write_text("run: |\n  echo hello\n  exit 6\n")
    done = ctl(box, "run", file)
    assert (done.returncode, done.stdout) == (6, "hello\n")
    assert done.stderr == "runnerctl: the job exited with status 6\n"
    assert ctl(box, "run", "-", stdin="run: 'true'").returncode == 0
    assert not box.root.exists()


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ("run: sleep 100\ntimeout: 0.1", 124),
        ("run: kill $$", 143),
        ("run: kill -40 $$", 168),  # a real-time signal, which has no name
        ("command: [no-such]", 125),
    ],
)
def test_run_exits_as_a_shell_would(box: SpoolBox, job: str, status: int) -> None:
    assert ctl(box, "run", "-", stdin=job).returncode == status


def test_run_says_where_a_file_is_wrong(box: SpoolBox) -> None:
    file = box.scratch / "job.yaml"
    file.write_text("run: a\ntimout: 5\n")
    done = ctl(box, "run", file)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"{file}:2:1: unknown field `timout`")


def test_run_can_keep_the_job(box: SpoolBox) -> None:
    for job_id in ("job", "job.2"):
        assert ctl(box, "run", "--keep", box.root, "-", stdin="run: touch made").returncode == 0
        assert box.path("done", job_id, "work", "made").exists()


def test_an_interrupt_cancels_what_runs_in_the_foreground(box: SpoolBox) -> None:
    command = [*PROGRAM, "run", "--keep", str(box.root), "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as runner:
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(b"run: |\n  echo begun\n  sleep 1000\n")
        runner.stdin.close()
        assert runner.stdout.readline() == b"begun\n"
        runner.send_signal(signal.SIGINT)
        assert runner.wait(20) == 130
    assert box.path("failed", "job", "result.json").exists()
    assert json.loads(box.path("failed", "job", "result.json").read_text())["reason"] == "cancelled"


def test_run_does_not_share_a_spool_with_a_daemon(box: SpoolBox) -> None:
    box.start()
    done = ctl(box, "run", "--keep", box.root, "-", stdin="run: 'true'")
    assert done.returncode == 1
    assert "is served by another runnerd" in done.stderr
    assert not os.listdir(box.path("done"))


# --- templates and policy -----------------------------------------------------------------------

TEMPLATE = """
description: Create a virtual host.
allow: {users: [games], groups: [nogroup]}
params:
  domain: {type: hostname, help: The site's name.}
  php: {type: enum, values: ["8.2", "8.3"], default: "8.3"}
  note: {required: false, example: a b}
job: {run: 'echo "$PARAM_DOMAIN $PARAM_PHP"'}
"""


def configured(box: SpoolBox, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return ctl(box, "--config", box.config_file, *words)


def test_templates_are_listed_with_an_example_that_works(box: SpoolBox) -> None:
    box.template("create-vhost", TEMPLATE)
    box.start()
    text = configured(box, "templates").stdout
    assert text.splitlines() == [
        "create-vhost: Create a virtual host.",
        "  for user games, group nogroup",
        "  domain: a host name, like example.org; required",
        "      The site's name.",
        "  php: one of 8.2, 8.3; default 8.3",
        "  note: one line of text, at most 200 characters; may be left out",
        "  example: runnerctl submit --uses create-vhost domain=example.org",
        "",
    ]
    (line,) = [line for line in text.splitlines() if "example: " in line]
    words = shlex.split(line.partition("example: runnerctl ")[2])
    done = configured(box, *words, "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    (data,) = json.loads(configured(box, "templates", "--json").stdout)
    assert data["params"]["domain"] == {
        "type": "hostname",
        "help": "The site's name.",
        "required": True,
    }
    assert data["example"] == {"uses": "create-vhost", "with": {"domain": "example.org"}}


def test_submit_uses_a_template(box: SpoolBox) -> None:
    box.template("create-vhost", TEMPLATE)
    box.start()
    words = ["submit", "--uses", "create-vhost", "--name", "v1", "domain=a.example", "php=8.2"]
    assert configured(box, *words).stdout == "v1\n"
    assert box.result("v1").template == "create-vhost"
    assert box.output("v1") == "a.example 8.2\n"
    odd = configured(box, "submit", "--uses", "create-vhost", "--wait", "domain=a=b;c")
    assert odd.returncode == 125
    assert "expected a host name, like example.org, found 'a=b;c'" in odd.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["submit", "--uses", "t", "domain"], "'domain' is no parameter; write NAME=VALUE"),
        (["submit", "--uses", "t", "a=b", "a=c"], "the parameter a is given twice"),
        (["submit", "a.yaml", "b.yaml"], "one FILE at a time"),
        (["schema", "jobs"], "'jobs' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2(box: SpoolBox, words: list[str], part: str) -> None:
    done = ctl(box, *words)
    assert done.returncode == 2
    assert part in done.stderr


def test_templates_says_what_is_broken_or_absent(box: SpoolBox) -> None:
    box.configure()
    assert configured(box, "templates").stdout == "there are no templates here\n"
    box.template("broken", "job: {run: x}")
    assert "broken.yaml: the field `allow` is missing" in configured(box, "templates").stderr
    done = configured(box, "templates", "nope")
    assert done.returncode == 1
    assert done.stderr.endswith("there is no template nope here\n")


def test_validate_checks_the_use_of_a_template(box: SpoolBox) -> None:
    box.configure()
    box.template("create-vhost", TEMPLATE)
    file = box.scratch / "job.yaml"
    file.write_text("uses: create-vhost\nwith: {domain: a.example}\n")
    assert configured(box, "validate", file).stdout == f"{file}: good\n"
    file.write_text("uses: create-vhost\nwith: {domain: -a}\n")
    done = configured(box, "validate", file)
    assert done.returncode == 1
    assert f"{file}:2:16: `with.domain`: expected a host name" in done.stdout


def test_validate_tries_the_policy_as_somebody(box: SpoolBox) -> None:
    box.configure(policy="[{users: [games], run_as: [www-data]}]")
    box.template("create-vhost", TEMPLATE)
    file = box.scratch / "job.yaml"
    file.write_text("run: id\nuser: www-data\n")
    good = configured(box, "validate", "--as", "games", file)
    assert good.stdout == f"{file}: good; it would run as www-data\n"
    bad = configured(box, "validate", "--as", "www-data", "--json", file)
    assert bad.returncode == 1
    (answer,) = json.loads(bad.stdout)
    assert (answer["valid"], answer["reason"]) == (False, "denied")
    assert answer["errors"][0]["message"].endswith(
        "no rule of the policy is for this user or its groups"
    )
    file.write_text("run: id\nuser: root\n")
    denied = configured(box, "validate", "--as", "games", file).stdout
    assert denied.startswith(f"{file}:2:1: games (uid 5) may not run jobs as root: ")
    file.write_text("uses: create-vhost\nwith: {domain: a.example}\n")
    assert configured(box, "validate", "--as", "games", file).returncode == 0
    assert configured(box, "validate", "--as", "www-data", file).returncode == 1
    assert "there is no user nope" in configured(box, "validate", "--as", "nope", file).stderr


def test_schema_prints_what_is_shipped(box: SpoolBox) -> None:
    shipped = Path(__file__).parents[2] / "etc/schema/job.json"
    assert json.loads(ctl(box, "schema", "job").stdout) == json.loads(shipped.read_text())


def test_run_takes_templates_and_secrets_from_the_configuration(box: SpoolBox) -> None:
    box.configure()
    user = getpass.getuser()
    job = f"{{user: {user}, run: 'echo $PARAM_A $PW', secrets: {{PW: pw}}}}"
    box.template("t", f"allow: {{}}\nparams: {{a: {{}}}}\njob: {job}")
    box.secret("pw", "hunter22")
    file = box.scratch / "job.yaml"
    file.write_text("uses: t\nwith: {a: b}\n")
    done = configured(box, "run", file)
    assert (done.returncode, done.stdout) == (0, "b ***\n")


# --- watching -----------------------------------------------------------------------------------


def test_logs_can_show_when_each_line_came(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: |\n  echo one\n  sleep 0.3\n  printf 'two\\nthree'\n")
    lines = ctl(box, "logs", "-t", "j").stdout.splitlines()
    stamps = [line.partition(" ")[0] for line in lines]
    assert [line.partition(" ")[2] for line in lines] == ["one", "two", "three"]
    times = [units.epoch(stamp) for stamp in stamps]
    assert times == sorted(times)
    assert 0.2 < times[1] - times[0] < 5
    started = box.result("j").started_at
    assert started is not None
    assert -0.01 < times[0] - units.epoch(started) < 5
    followed = ctl(box, "logs", "-f", "-t", "j").stdout.splitlines()
    assert followed == lines


def test_logs_of_an_earlier_attempt(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: echo try $RUNNER_ATTEMPT; exit 1\nretry: {max: 1, delay: 0}")
    assert ctl(box, "logs", "j").stdout == "try 2\n"
    assert ctl(box, "logs", "--attempt", "1", "j").stdout == "try 1\n"
    assert ctl(box, "logs", "--attempt", "1", "-t", "j").stdout.endswith(" try 1\n")


def test_watch_shows_what_runs_and_what_waits(box: SpoolBox) -> None:
    gate = box.gate()
    box.start(slots=1)
    job = "steps:\n- {id: a, run: 'echo \"42 Half \\e[2J\" >> $RUNNER_PROGRESS; read x < %s'}\n"
    box.drop("j", job % gate + "- {run: 'true'}\n")
    box.drop("later", "run: echo x")
    until(lambda: "42%" in ctl(box, "watch", "--once").stdout, "no progress is shown")
    text = ctl(box, "watch", "--once").stdout
    assert text == "j: 42% step a (1 of 2) Half \\x1b[2J\n1 running, 1 queued\n"
    gate.open()
    assert box.result("later").state.value == "done"
    assert ctl(box, "watch", "--once").stdout == "0 running, 0 queued\n"


def test_watch_draws_bars_on_a_terminal(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("j", f"run: echo '50 Half' >> $RUNNER_PROGRESS; read x < {gate}")
    box.started("j")
    main_end, their_end = pty.openpty()
    # Whoever runs the tests in the background may have had SIGINT ignored.
    interruptible = ["env", "--default-signal=INT"]
    command = [*interruptible, *PROGRAM, "--spool", str(box.root), "watch", "--every", "0.1"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"}
    drawing = subprocess.Popen(command, stdout=their_end, stderr=their_end, env=env)
    os.close(their_end)
    shown = b""
    while b"Half" not in shown or "━".encode() not in shown:
        shown += os.read(main_end, 4096)
    drawing.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the end of a terminal
        while os.read(main_end, 4096):
            pass
    assert drawing.wait(20) == 0
    os.close(main_end)
    gate.open()
    assert box.result("j").exit_code == 0
