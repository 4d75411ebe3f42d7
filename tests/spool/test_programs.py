"""Executors in any language: the two that are shown, and a zoo of broken ones."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from spoolbox import SpoolBox, until

from runnerd.executors import program
from runnerd.executors.description import read_description
from runnerd.model import Reason, State

SHOWN = Path(__file__).parents[2] / "etc/executors"
WORDS = '"word": {"type": "string"}, "words": {"type": "array", "items": {"type": "string"}}'
OPTIONS = f'"options": {{"type": "object", "properties": {{{WORDS}}}}}'
DESCRIBE = f'{{"protocol": 1, "description": "A test.", {OPTIONS}}}'
needs_php = pytest.mark.skipif(shutil.which("php") is None, reason="there is no php")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the daemon looks for programs. Not below pytest's, which is for its own user alone."""
    with tempfile.TemporaryDirectory(prefix="programs-") as scratch:
        Path(scratch).chmod(0o755)
        path = Path(scratch) / "executors"
        path.mkdir(mode=0o755)
        yield path


def install(directory: Path, name: str, run: str = "", describe: str | None = None) -> Path:
    """A program in sh."""
    said = f"cat <<'END'\n{DESCRIBE}\nEND" if describe is None else describe
    path = directory / name
    path.write_text(f"#!/bin/sh\nif [ $1 = describe ]; then\n{said}\nexit\nfi\n{run}\n")
    path.chmod(0o755)
    return path


def show(directory: Path, name: str) -> None:
    shutil.copy(SHOWN / name, directory / name)


def disabled(box: SpoolBox) -> dict[str, str]:
    """What the log says of each program that cannot be used; one line for each."""
    found: dict[str, str] = {}
    for line in box.log.read_text().splitlines():
        name, is_disabled, why = line.partition("the executor ")[2].partition(" is disabled: ")
        if is_disabled:
            assert name not in found
            found[name] = why
    return found


# --- those that are shown -----------------------------------------------------------------------


def test_the_one_in_shell_runs_scripts_and_commands(box: SpoolBox, directory: Path) -> None:
    show(directory, "polite")
    box.start(executors=directory)
    head = "executor: polite\npolite: {level: 7, umask: '0077'}\nenv: {A: b c}\n"
    result = box.run(
        "j", head + 'run: |\n  echo "$A $(nice)"; umask; touch made\n  false\n  echo x\n'
    )
    assert (result.state, result.exit_code, result.executor) == (State.FAILED, 1, "polite")
    assert box.output("j") == "b c 7\n0077\n"
    assert box.path("failed", "j", "work", "made").exists()
    result = box.run("k", f"{head}command: [printf, '%s|', 'a b', '', '$A']\n")
    assert box.output("k") == "a b||$A|"
    result = box.run("bad", "executor: polite\npolite: {level: 20}\nrun: x\n")
    assert result.error is not None
    assert (result.error.line, result.error.column) == (2, 17)
    assert result.error.message == "`polite.level`: expected a whole number from 0 to 19, found 20"


@needs_php
def test_the_one_in_php_evaluates_code(box: SpoolBox, directory: Path) -> None:
    show(directory, "php-eval")
    prepend = box.scratch / "prepend.php"
    prepend.write_text("<?php function twice(string $s): string { return $s . $s; }\n")
    box.secret("smtp", "hunter22-secret")
    box.start(executors=directory)
    job = f"""
executor: php-eval
php-eval: {{memory: 64M, prepend: [{prepend}]}}
env: {{WORD: grüße}}
secrets: {{PW: smtp}}
run: |
  echo twice($job['env']['WORD']), ini_get('memory_limit'), " ", $job['job']['id'], "\\n";
  echo strlen($job['env']['PW']), $job['env']['PW'], " ", getcwd() === $job['paths']['work'], "\\n";
  file_put_contents(getenv('RUNNER_OUTPUT'), "file=invoice.pdf\\n");
  file_put_contents(getenv('RUNNER_PROGRESS'), "50 half\\n");
"""
    result = box.run("j", job)
    assert box.output("j") == "grüßegrüße64M j\n15*** 1\n"
    assert (result.state, result.outputs) == (State.DONE, {"file": "invoice.pdf"})
    result = box.run("k", "executor: php-eval\nrun: exit(3);\n")
    assert (result.reason, result.exit_code) == (Reason.EXIT, 3)
    result = box.run("n", "executor: php-eval\ncommand: [x]\n")
    assert (result.reason, result.exit_code) == (Reason.EXECUTOR, None)
    assert "the executor php-eval failed (status 125); its output says why" in result.message
    assert box.output("n") == "php-eval: it evaluates `run`, of the protocol 1\n"


# --- the protocol -------------------------------------------------------------------------------


def test_a_program_reads_the_whole_step_as_json(box: SpoolBox, directory: Path) -> None:
    install(directory, "echo", "cat")
    box.secret("smtp", "hunter22-secret")
    (box.scratch / "secrets" / "raw").write_bytes(b"\xff\xfe\x80\x81")
    (box.scratch / "secrets" / "raw").chmod(0o600)
    box.start(executors=directory)
    job = """
steps:
  - {id: first, run: echo a=handed on >> $RUNNER_OUTPUT}
  - id: second
    name: The second
    executor: echo
    echo: {word: "quote\\"d"}
    command: [a, "b c"]
    env: {X: "1"}
    timeout: 5m
secrets: {PW: smtp, RAW: raw}
limits: {open_files: 100}
"""
    result = box.run("j", job)
    assert result.state is State.DONE
    text = box.output("j").partition("==> step second: The second\n")[2]
    said = json.loads(text)
    who = pwd.getpwuid(os.geteuid())
    running = str(box.path("running", "j"))
    assert said == {
        "protocol": 1,
        "job": {"id": "j", "attempt": 1, "submitter": who.pw_name},
        "step": {"id": "second", "name": "The second"},
        "run": None,
        "command": ["a", "b c"],
        "options": {"word": 'quote"d'},
        "env": {"X": "1", "STEP_FIRST_A": "handed on", "PW": "***"},
        "secrets": ["PW", "RAW"],
        "timeout_s": 300,
        "limits": said["limits"],
        "user": {
            "name": who.pw_name,
            "uid": who.pw_uid,
            "gid": who.pw_gid,
            "home": who.pw_dir,
        },
        "paths": {
            "job": running,
            "work": f"{running}/work",
            "output": f"{running}/.outputs.1",
            "progress": f"{running}/.progress",
        },
    }
    assert said["limits"]["open_files"] == 100


@pytest.mark.root
def test_a_program_runs_as_the_jobs_user_and_describes_itself_as_nobody(
    box: SpoolBox, directory: Path
) -> None:
    asked = directory.parent / "asked"
    asked.touch()
    asked.chmod(0o666)
    describe = (
        f"(id -un; id -Gn; pwd; env | grep -c MY_SECRET) > {asked}\ncat <<'END'\n{DESCRIBE}\nEND"
    )
    run = "id -un; id -Gn; stat -c %a.%U /proc/self/fd/0 -L; cat /proc/self/fd/0 | head -c 12"
    install(directory, "who", run, describe)
    box.start(executors=directory)
    assert asked.read_text() == "nobody\nnogroup\n/\n0\n"
    result = box.run("j", "executor: who\nrun: x\nuser: daemon\n")
    assert result.state is State.DONE
    assert box.output("j") == 'daemon\ndaemon\n400.daemon\n{"protocol":'


def test_a_program_is_supervised_like_any_job(box: SpoolBox, directory: Path) -> None:
    stray = box.scratch / "stray"
    leave = f"setsid sh -c 'echo $$ > {stray}; exec sleep 1000' &\n"
    leave += f"while [ ! -s {stray} ]; do sleep 0.01; done\nexit 5"
    install(directory, "leaves", leave)
    install(directory, "sleeps", "trap 'echo asked; exit 0' TERM; sleep 1000 & wait")
    install(directory, "dies", "kill -KILL $$")
    install(directory, "absent", "exit 127")
    install(directory, "limited", "ulimit -n")
    install(directory, "deaf", "exec 0<&-; echo ignores its input")
    box.start(executors=directory)
    result = box.run("j", "executor: leaves\nrun: x\n")
    assert (result.reason, result.exit_code) == (Reason.EXIT, 5)
    assert not psutil.pid_exists(int(stray.read_text()))
    result = box.run("k", "executor: sleeps\nrun: x\ntimeout: 0.3\n")
    assert (result.reason, box.output("k")) == (Reason.TIMEOUT, "asked\n")
    box.drop("c", "executor: sleeps\nrun: x\n")
    box.started("c")
    box.control("c.cancel")
    assert box.result("c").reason is Reason.CANCELLED
    assert box.run("d", "executor: dies\nrun: x\n").signal == "SIGKILL"
    assert box.run("e", "executor: absent\nrun: x\n").exit_code == 127
    box.run("l", "executor: limited\nrun: x\nlimits: {open_files: 99}\n")
    assert box.output("l") == "99\n"
    big = "x" * 200_000
    for job in (
        f"run: '{big}'\n",
        f"run: x\ndeaf: {{words: ['{big[:100_000]}', '{big[:100_000]}']}}\n",
    ):
        result = box.run("f", f"executor: deaf\n{job}")
        assert (result.state, box.output("f")) == (State.DONE, "ignores its input\n")


# --- the directory ------------------------------------------------------------------------------

GARBAGE = {
    "hangs": "sleep 1000",
    "noise": "head -c 1000 /dev/urandom",
    "words": "echo hello",
    "deep": 'python3 -c \'print("[" * 60000)\' 2>/dev/null || printf "[[[["',
    "much": "head -c 70000 /dev/zero | tr '\\0' x",
    "endless": "exec cat /dev/zero",
    "silent": "true",
    "crashes": "kill -SEGV $$",
    "status": "echo no database >&2; exit 3",
    "absent": "exit 127",
    "newer": """echo '{"protocol": 2, "description": "x"}'""",
    "schema": """echo '{"protocol": 1, "description": "x", "options": {"oneOf": []}}'""",
    "secret": """echo '{"protocol": 1, "description": "x", "more": 1}'""",
}
WHY = {
    "hangs": "`describe` did not end within",
    "noise": "`describe` prints no JSON",
    "words": "`describe` prints no JSON",
    "deep": "`describe` prints no JSON",
    "much": "`describe` prints 64 KiB or more",
    "endless": "`describe` ",
    "silent": "`describe` prints no JSON",
    "crashes": "`describe` was ended by signal 11",
    "status": "`describe` exited with status 3: no database",
    "absent": "`describe` exited with status 127",
    "newer": "it speaks the protocol 2, and this runnerd 1",
    "schema": "options: `oneOf` is not understood by this runnerd",
    "secret": "the description: `more` is not understood by this runnerd",
    "plain": "it is not executable; run: chmod 0755",
    "dangling": "it is no plain file",
    "linked": "it is no plain file",
    "folder": "it is no plain file",
    "fifo": "it is no plain file",
    "open": "others may write it; run: chmod go-w",
    "shell": "there is another executor of that name",
    "env": "`env` is the name of a field of jobs",
    "Big": "its name is not made of small letters",
    "noexec": "it cannot be started: ",
}


@pytest.mark.heavy
def test_broken_programs_disable_themselves_with_one_line_each(
    box: SpoolBox, directory: Path
) -> None:
    for name, describe in GARBAGE.items():
        install(directory, name, describe=describe)
    stray = directory.parent / "stray"
    stray.touch()
    stray.chmod(0o666)
    told = f"cat <<'END'\n{DESCRIBE}\nEND"
    install(directory, "leaves", describe=f"setsid sh -c 'echo $$ > {stray}; sleep 1000' &\n{told}")
    install(directory, "plain").chmod(0o644)
    install(directory, "open").chmod(0o757)
    for name in ("shell", "env", "Big", "fine"):
        install(directory, name, "echo works")
    (directory / "noexec").write_text("#!/no/such/interpreter\n")
    (directory / "noexec").chmod(0o755)
    (directory / "dangling").symlink_to("/nowhere")
    (directory / "linked").symlink_to(directory / "fine")
    (directory / "folder").mkdir()
    os.mkfifo(directory / "fifo", 0o755)
    for name in ("README.md", "fine.dpkg-old", "fine~", ".hidden"):
        (directory / name).write_text("left alone\n")
    since = time.monotonic()
    box.start(executors=directory)
    assert time.monotonic() - since < program.DESCRIBE_S + 10
    found = disabled(box)
    assert found.keys() == WHY.keys()
    for name, why in WHY.items():
        assert why in found[name], name
    if stray.read_text():
        until(lambda: not psutil.pid_exists(int(stray.read_text())), "a child of describe stays")
    assert box.run("a", "executor: fine\nrun: x\n").state is State.DONE
    assert box.run("b", "executor: leaves\nrun: x\n").state is State.DONE
    command = [*box.program, "--config", str(box.config_file), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 78
    assert all(f"the executor {name} is disabled: " in checked.stderr for name in WHY)
    result = box.run("c", "executor: status\nrun: x\n")
    assert result.reason is Reason.INVALID
    assert result.message.endswith(
        "the executor status is disabled here: `describe` exited with status 3: no database"
    )


def test_a_directory_that_others_may_write_is_not_trusted(box: SpoolBox, directory: Path) -> None:
    ran = directory.parent / "ran"
    install(directory, "fine", describe=f"touch {ran}")
    directory.chmod(0o777)
    box.start(executors=directory)
    assert disabled(box) == {
        "fine": f"{directory}: others may write it; run: chmod go-w {directory}"
    }
    assert not ran.exists()


def test_a_program_that_is_put_there_later_works_after_a_reload(
    box: SpoolBox, directory: Path
) -> None:
    box.start(executors=directory, slots=1)
    assert box.run("warm", "run: echo x").state is State.DONE
    runners = [each.pid for each in box.runners()]
    path = install(directory, "late", "echo works")
    install(directory, "broken", describe="exit 1")
    assert box.run("a", "executor: late\nrun: x\n").reason is Reason.INVALID
    box.reload()
    assert "`describe` exited with status 1" in disabled(box)["broken"]
    assert box.run("b", "executor: late\nrun: x\n").state is State.DONE
    assert [each.pid for each in box.runners()] == runners
    path.chmod(0o777)
    result = box.run("c", "executor: late\nrun: x\n")
    assert result.reason is Reason.EXECUTOR
    assert "the executor late cannot be used" in result.message
    path.unlink()
    assert "No such file" in box.run("d", "executor: late\nrun: x\n").message


# --- descriptions -------------------------------------------------------------------------------


def described(**properties: object) -> bytes:
    schema = {"type": "object", "properties": properties}
    return json.dumps({"protocol": 1, "description": "x", "options": schema}).encode()


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object"}, "options.a.type: expected string, integer, number, boolean, array"),
        ({"type": ["string"]}, "options.a.type: expected string"),
        ({}, "options.a.type: expected string"),
        ({"type": "string", "pattern": "x"}, "it has to start with ^ and to end with $"),
        ({"type": "string", "pattern": "^[$"}, "not a regular expression"),
        ({"type": "string", "pattern": "^(a+)+$"}, "can take for ever to match"),
        ({"type": "string", "format": "uri"}, "`format` is not understood by this runnerd"),
        ({"type": "string", "maxLength": "9"}, "options.a.maxLength: expected a whole number"),
        ({"enum": ["a", "a"]}, "expected a list of different texts"),
        ({"enum": [1]}, "expected a list of different texts"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum and maximum lie between"),
        ({"type": "integer", "minimum": True}, "expected a whole number"),
        ({"type": "integer", "maximum": 4, "default": 5}, "its own example or default is not good"),
        ({"type": "number", "minimum": -1}, "of a number lie between 0 and"),
        ({"type": "array", "items": {"type": "array"}}, "an array of arrays cannot be had"),
        ({"type": "array"}, "options.a.items: expected an object"),
        ({"type": "boolean", "description": ""}, "expected a description"),
        ({"type": "boolean", "examples": []}, "options.a.examples: expected a list"),
    ],
)
def test_a_schema_that_says_more_than_is_checked_is_refused(
    schema: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the sentence is looked at
        read_description(described(a=schema))
    assert why in str(caught.value)


def test_what_a_description_may_say_becomes_fields() -> None:
    record = read_description(
        described(
            text={"type": "string", "description": "A text.", "default": "x"},
            form={"type": "string", "pattern": "^[a-z]+$", "maxLength": 9, "examples": ["ab"]},
            word={"enum": ["one", "mro"]},
            count={"type": "integer", "minimum": 2},
            share={"type": "number", "maximum": 1, "examples": [0.5]},
            flag={"type": "boolean", "default": False},
            names={"type": "array", "items": {"type": "string"}, "minItems": 2},
        )
    ).options
    assert record is not None
    assert [each.name for each in record.fields] == [
        *("text", "form", "word", "count", "share", "flag", "names")
    ]
    assert [each.example for each in record.fields][3:] == ["2", "0.5", "false", '["text", "text"]']
    assert read_description(b'{"protocol": 1, "description": "x"}').options is None


def test_runnerctl_lists_programs_with_their_options_and_what_is_wrong(
    box: SpoolBox, directory: Path
) -> None:
    show(directory, "polite")
    install(directory, "mute", describe="echo '\\033[2J' >&2; exit 3")
    install(directory, "shell")
    box.configure(executors=directory)
    program = [sys.executable, "-c", "from runnerd.ctl import main; main()", "--config"]
    done = subprocess.run(
        [*program, box.config_file, "executors"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    at = lines.index("polite: program; Scripts and commands as in a shell job, with less priority.")
    assert lines[at + 1 :] == [
        "  level: a whole number from 0 to 19; default 10",
        "      How polite; 19 is the most. Example: 10",
        "  umask: a text that matches ^0[0-7]{3}$; may be left out",
        '      The mask for the modes of new files. Example: "0077"',
        "shell: program, cannot be used: there is another executor of that name",
        "mute: program, cannot be used: `describe` exited with status 3: \\x1b[2J",
    ]


def test_an_example_in_the_directory_is_described_well() -> None:
    for name in ("polite", *(["php-eval"] if shutil.which("php") else [])):
        done = subprocess.run([SHOWN / name, "describe"], capture_output=True, check=True)
        assert read_description(done.stdout).options is not None
