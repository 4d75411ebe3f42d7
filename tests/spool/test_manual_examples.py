"""The programs in the manual are run, each against a real spool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import manual
import pytest
from manual import Example
from spoolbox import SpoolBox

from runnerd import webhook
from runnerd.model import State

RUN = {
    "sh": ["sh"],
    "php": ["php"],
    "python": [sys.executable],
    "node": ["node"],
    "go": ["go", "run"],
}
SUFFIXES = {"node": "js", "python": "py"}


@pytest.mark.parametrize("example", manual.examples(*RUN), ids=str)
def test_a_program_of_the_manual_submits_a_job(box: SpoolBox, example: Example) -> None:
    argv = RUN[example.kind]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"there is no {argv[0]} here")
    box.start()
    text = example.text.replace("/var/spool/runner", str(box.root))
    assert text != example.text or example.kind == "python"
    program = box.scratch / f"example.{SUFFIXES.get(example.kind, example.kind)}"
    program.write_text(text)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "RUNNERD_SPOOL": str(box.root)}
    done = subprocess.run(
        [*argv, program], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    if example.kind == "go":  # it does not wait
        box.result("invoice-go-4711")
    elif example.kind == "sh":
        assert done.stdout == "invoice-4711: done, the job succeeded\n"
    else:
        assert done.stdout == "done: the job succeeded\n"
    (job,) = box.api.jobs(State.DONE)
    assert job.log_file.read_text() == "invoice 4711\n"
    assert not os.listdir(box.path("incoming"))


@pytest.mark.skipif(shutil.which("php") is None, reason="there is no php here")
def test_the_check_of_a_signature_knows_ours_from_others(tmp_path: Path) -> None:
    (example,) = manual.examples("php-check")
    program = tmp_path / "check.php"
    ask = "exit(signed($argv[1], json_decode($argv[2], true), $argv[3]) ? 0 : 3);"
    program.write_text(f"{example.text}{ask}\n")
    entry = webhook.Entry(
        job="j",  # type: ignore[arg-type]
        number=1,
        id="an-id",
        type="t",
        url="https://x",
        secret="backend",  # noqa: S106  # a name
        since=0.0,
        body='{"a": "\u00e4"}',
    )

    def asked(key: str, body: str, at: float) -> int:
        headers = webhook.headers(entry, secret=b"hunter22", now=time.time() + at, version="v")
        argv = ["php", str(program), key, json.dumps(headers), body]
        return subprocess.run(argv, check=False).returncode

    assert asked("hunter22", entry.body, 0) == 0
    assert asked("hunter23", entry.body, 0) == 3
    assert asked("hunter22", entry.body + " ", 0) == 3
    assert asked("hunter22", entry.body, -1000) == 3
