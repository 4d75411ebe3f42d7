"""Executors that other Python packages bring: one that is installed with pip, and broken ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from spoolbox import SpoolBox

from runnerd.model import Reason, State

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[1] / "plugin-example"
HEAD = "executor: interpret\n"
PROGRAM = "from runnerd.ctl import main; main(prog_name='runnerctl')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example plugin, as pip installs it; without a package index."""
    target = tmp_path_factory.mktemp("plugins")
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        pip = ["python3", "-m", "pip", "--python", sys.executable]
    # A copy: a build writes beside its sources.
    source = target / "source"
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", *options, "--quiet", "--target", target / "site", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target / "site"


@pytest.fixture
def with_example(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(site))


def ctl(box: SpoolBox, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "--config", str(box.config_file), *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("with_example")
def test_a_plugin_runs_jobs_and_steps_with_its_options(box: SpoolBox) -> None:
    box.start()
    job = 'run: \'BEGIN { print "awk", ENVIRON["A"] }\'\nenv: {A: b}\n'
    result = box.run("j", f"{HEAD}interpret: {{program: awk, flags: [-f]}}\n{job}")
    assert (result.state, result.executor) == (State.DONE, "interpret")
    assert box.output("j") == "awk b\n"
    job = """
interpret: {program: perl}
steps:
  - {id: first, executor: interpret, run: 'print "perl\\n"; exit 0'}
  - {executor: interpret, interpret: {program: sed, flags: [-n, -f]}, run: p, if: always}
  - {run: echo shell}
"""
    box.run("k", job)
    assert "==> step first\nperl\n" in box.output("k")
    assert box.output("k").endswith("==> step 3\nshell\n")


@pytest.mark.usefixtures("with_example")
def test_a_plugin_gets_the_secret_that_its_options_name(box: SpoolBox) -> None:
    box.secret("backend", "hunter22-token")
    box.start()
    job = 'run: \'BEGIN { print length(ENVIRON["INTERPRET_TOKEN"]), ENVIRON["INTERPRET_TOKEN"] }\''
    options = "interpret: {program: awk, flags: [-f], token: backend}"
    result = box.run("j", f"{HEAD}{options}\n{job}\n")
    assert box.output("j") == "14 ***\n"
    assert result.secrets == ("backend",)


@pytest.mark.usefixtures("with_example")
@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        (
            f"{HEAD}run: x\ninterpret: {{program: awkk}}\n",
            *(3, 22),
            "`interpret.program`: expected awk, perl or sed, found 'awkk': did you mean `awk`?",
        ),
        (
            f"{HEAD}run: x\ninterpret: {{program: awk, flgs: []}}\n",
            *(3, 27),
            "unknown field `interpret.flgs`: did you mean `flags`?",
        ),
        (
            f"{HEAD}run: x\n",
            *(1, 11),
            "the executor interpret needs options, like interpret: {program: perl}",
        ),
        (
            "run: x\ninterpret: {program: awk}\n",
            *(2, 1),
            "`interpret` is of use to the executor interpret only: `executor: interpret`",
        ),
        (
            "steps: [{run: x, interpret: {program: awk}}]\n",
            *(1, 18),
            "`steps`: `interpret` is of use to the executor interpret only: `executor: interpret`",
        ),
    ],
)
def test_what_is_wrong_with_options_is_told_with_its_place(
    box: SpoolBox, text: str, line: int, column: int, message: str
) -> None:
    box.start()
    result = box.run("j", text)
    assert (result.state, result.reason) == (State.FAILED, Reason.INVALID)
    assert result.error is not None
    assert (result.error.line, result.error.column, result.error.message) == (line, column, message)


@pytest.mark.usefixtures("with_example")
def test_the_schema_has_the_options_of_a_plugin(box: SpoolBox) -> None:
    box.configure()
    done = ctl(box, "schema", "job")
    checker = jsonschema.Draft202012Validator(json.loads(done.stdout))
    job = {"run": "x", "executor": "interpret", "interpret": {"program": "awk", "flags": ["-f"]}}
    assert checker.is_valid(job)
    assert checker.is_valid({"steps": [{k: job[k] for k in ("run", "interpret")}]})
    assert not checker.is_valid({**job, "interpret": {"program": "cobol"}})
    assert not checker.is_valid({**job, "interpret": {}})


@pytest.mark.usefixtures("with_example")
def test_its_options_are_told_to_people_and_to_programs(box: SpoolBox) -> None:
    box.configure()
    done = ctl(box, "executors", "interpret")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [
        "interpret: Python plugin; A script for an interpreter that the job names.",
        "  program: awk, perl or sed; required",
        "      The interpreter. Example: perl",
    ]
    (told,) = json.loads(ctl(box, "executors", "interpret", "--json").stdout)
    assert (told["kind"], told["usable"], told["why"]) == ("Python plugin", True, None)
    assert [each["name"] for each in told["options"]] == ["program", "flags", "token"]
    assert told["options"][0] == {
        "name": "program",
        "takes": "awk, perl or sed",
        "help": "The interpreter.",
        "example": "perl",
        "default": None,
        "required": True,
        "options": [],
    }


def test_a_plugin_that_cannot_be_used_is_listed_with_the_reason(
    box: SpoolBox, broken: Path
) -> None:
    plugin(broken, "raises", "1 / 0")
    plugin(broken, "shell", GOOD)
    plugin(broken, "talks", f"{GOOD}Plugin = type('Talks', (Plugin,), {{'about': 3}})\n")
    box.configure()
    done = ctl(box, "executors")
    assert (done.returncode, done.stderr) == (1, "")
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in heads[:3]] == ["shell", "docker", "ssh"]
    assert heads[3:] == [
        f"{name}: Python plugin, cannot be used: {why}"
        for name, why in {
            "raises": "plugin_0:Plugin failed to load: ZeroDivisionError: division by zero",
            "shell (plugin_2:Plugin)": "plugin_2:Plugin has the name of a built-in executor",
            "talks": "its `about` is no text",
        }.items()
    ]
    assert ctl(box, "executors", "shell").returncode == 0
    one = ctl(box, "executors", "raises", "--json")
    assert one.returncode == 1
    (told,) = json.loads(one.stdout)
    assert (told["usable"], told["options"]) == (False, [])
    missing = ctl(box, "executors", "nope", "shell")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "runnerctl: there is no executor nope here\n"


@pytest.mark.usefixtures("with_example")
def test_a_template_with_a_secret_among_its_options_needs_a_user(box: SpoolBox) -> None:
    job = "executor: interpret, interpret: {program: awk, token: backend}, run: x"
    box.template("t", f"allow: {{users: [root]}}\njob: {{{job}}}\n")
    box.start()
    assert "options of interpret name a secret, so the template needs a `user`" in (
        box.log.read_text()
    )


# --- broken ones --------------------------------------------------------------------------------


def plugin(site: Path, name: str, text: str, entry: str | None = None) -> None:
    """A package as pip would leave it."""
    module = f"plugin_{len(list(site.iterdir()))}"
    (site / f"{module}.py").write_text(text)
    info = site / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    line = f"{name} = {entry or module + ':Plugin'}\n"
    (info / "entry_points.txt").write_text(f"[runnerd.executors]\n{line}")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(directory))
    return directory


GOOD = """
from runnerd.executors.shell import Shell as Plugin
"""
THREADS = """
import threading

class Plugin:
    def __init__(self):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    def start(self, step, place):
        pass
"""
BROKEN = {
    "raises": ("1 / 0", "failed to load: ZeroDivisionError: division by zero"),
    "leaves": ("import sys; sys.exit(3)", "failed to load: SystemExit: 3"),
    "absent": ("x = 1", "failed to load: AttributeError: module"),
    "wrong": ("class Plugin: pass", "Plugin is no executor: it has no method `start`"),
    "options": (
        "class Plugin:\n  options = {}\n  def start(self, step, place): pass",
        "its `options` are neither a runnerd.shapes.Record nor None",
    ),
    "env": (GOOD, "`env` is the name of a field of jobs"),
    "timeout_s": (GOOD, "`timeout_s` is the name of a field of jobs"),
    "Bad": (GOOD, "its name is not made of small letters, digits, _ and -"),
    "threads": (
        THREADS,
        "starts threads when it is loaded",
    ),
    "shell": (GOOD, "has the name of a built-in executor"),
}


def test_a_plugin_that_cannot_be_used_is_left_out_with_one_line(
    box: SpoolBox, broken: Path
) -> None:
    for name, (text, _) in BROKEN.items():
        plugin(broken, name, text)
    plugin(broken, "twice", GOOD)
    plugin(broken, "twice", GOOD)
    plugin(broken, "fine", GOOD)
    box.start()
    lines = box.log.read_text().splitlines()
    disabled = [line.partition("the executor ")[2] for line in lines if "is disabled: " in line]
    assert len(disabled) == len(BROKEN) + 1
    for name, (_, why) in BROKEN.items():
        (line,) = [line for line in disabled if line.startswith((f"{name} is", f"{name} ("))]
        assert why in line
    assert "twice is disabled: two packages have a plugin of this name" in disabled
    assert box.run("a", "run: echo works\nexecutor: fine").state is State.DONE
    assert box.run("b", "run: echo works").state is State.DONE
    result = box.run("c", "run: x\nexecutor: raises\nraises: {a: b}\n")
    assert result.reason is Reason.INVALID
    why = "plugin_0:Plugin failed to load: ZeroDivisionError: division by zero"
    assert f"the executor raises is disabled here: {why}" in result.message
    assert ctl(box, "validate", str(box.path("failed", "c", "job.yaml"))).returncode == 1


@pytest.mark.parametrize("garbage", [b"\xff\xfe\0", b"[runnerd.executors]\n= x\ny\nz = :::\n"])
def test_a_damaged_package_stops_no_daemon(box: SpoolBox, broken: Path, garbage: bytes) -> None:
    plugin(broken, "fine", GOOD)
    (next(broken.glob("*.dist-info")) / "entry_points.txt").write_bytes(garbage)
    box.start()
    box.says(" is disabled: ")
    assert box.run("a", "run: echo works").state is State.DONE


RAISES = """
from runnerd.executors.shell import Shell
from runnerd.kinds import Line
from runnerd.shapes import Field, Record

def refuse(word):
    if word == "odd":
        raise ValueError("an odd word")
    return object() if word == "thing" else {"word": word}

class Running:
    def __init__(self, running):
        self.running, self.pid = running, running.pid
    def fileno(self):
        return self.running.fileno()
    def signal(self, number):
        raise OSError("no")
    def conclude(self):
        self.running.conclude()
        return {"none": None, "raise": 1 / 0 if self.word == "raise" else None}.get(self.word)

class Plugin:
    options = Record((Field("word", Line(), "A word.", "x"),), refuse)
    def start(self, step, place):
        word = (step.options or {}).get("word")
        if word == "start":
            raise KeyError("lost")
        if word == "nothing":
            return None
        running = Running(Shell().start(step, place))
        running.word = word
        return running
"""


@pytest.mark.parametrize(
    ("word", "reason", "part"),
    [
        ("odd", Reason.INVALID, "`raises`: an odd word"),
        ("thing", Reason.INVALID, "`raises`: object is no record"),
        ("start", Reason.EXECUTOR, "the executor raises failed: KeyError: 'lost'"),
        ("nothing", Reason.EXECUTOR, "the executor raises failed: AttributeError:"),
        ("none", Reason.EXECUTOR, "the executor raises failed: TypeError:"),
        ("raise", Reason.EXECUTOR, "the executor raises failed: ZeroDivisionError:"),
        ("none\ntimeout: 0.2\n#", Reason.TIMEOUT, "its timeout of 0.2s"),
    ],
)
def test_what_a_plugin_raises_ends_neither_daemon_nor_runner(
    box: SpoolBox, broken: Path, word: str, reason: Reason, part: str
) -> None:
    plugin(broken, "raises", RAISES)
    box.start(slots=1)
    long = "sleep 1000" if "timeout" in word else "echo x"
    result = box.run("j", f"run: {long}\nexecutor: raises\nraises:\n  word: {word}\n")
    assert (result.reason, result.state) == (reason, State.FAILED)
    assert part in result.message
    runners = [each.pid for each in box.runners()]
    assert box.run("k", "run: echo works").state is State.DONE
    assert not runners or [each.pid for each in box.runners()] == runners
