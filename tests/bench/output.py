"""output: how fast a job's output reaches its log, and a container its end.

What `head -c` writes through a job's pipe into its log, beside `head -c | cat > file`. From the
rename of a docker job to its filing, beside `docker run` of the same image with the same
restrictions; by an engine of the bench's own, where there is one to start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import engine

from tests.bench.measure import median, serving

BYTES = 256 << 20


def show(options: argparse.Namespace) -> None:
    ratios = []
    with serving(1, options.dir) as served:
        for number in range(options.rounds):
            served.run(f"o{number}", f"command: [head, -c, '{BYTES}', /dev/zero]\n")
            result = json.loads((served.spool / f"done/o{number}/result.json").read_bytes())
            ratios.append(_cat_s(served.here) / float(result["duration_s"]))
    print(f"\noutput, of cat > file: {median(ratios):.2f}")


def _cat_s(here: Path) -> float:
    command = f"head -c {BYTES} /dev/zero | cat > {here / 'cat'}"
    began = time.monotonic()
    subprocess.run(["sh", "-c", command], check=True)
    return time.monotonic() - began


def show_containers(options: argparse.Namespace) -> None:
    lacking = engine.missing() or ("" if shutil.which("docker") else "there is no docker")
    if lacking:
        print(f"\ncontainer job: not measured, {lacking}")
        return
    ours, theirs = [], []
    text = f"executor: docker\ndocker: {{image: '{engine.IMAGE}'}}\ncommand: ['true']\n"
    with contextlib.closing(engine.Engine()) as its, tempfile.TemporaryDirectory() as scratch:
        os.environ["DOCKER_HOST"] = its.host
        with serving(1, options.dir) as served:
            served.run("warm", text)
            for number in range(options.containers):
                began = time.monotonic()
                served.run(f"c{number}", text)
                ours.append(time.monotonic() - began)
                theirs.append(_docker_run_s(scratch))
    ratio = median(ours) / median(theirs)
    print(f"\ncontainer job, of docker run: {ratio:.2f} ({median(ours):.3f} s)")


def _docker_run_s(scratch: str) -> float:
    """What a job gets, by hand."""
    restricted = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command = ["docker", "run", "--rm", *restricted, "--volume", f"{scratch}:/work", engine.IMAGE]
    began = time.monotonic()
    subprocess.run([*command, "true"], check=True)
    return time.monotonic() - began
