"""The image: built here, and asked to run a job, as its first lines say."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import debian
import pytest
from engine import Engine, missing

from runnerd.executors.engine import EngineTrouble
from runnerd.executors.outside import container_id, seen_from_outside

ROOT = Path(__file__).parents[2]
IMAGE = "runnerd:test"
JOB = """
steps:
  - {id: here, run: 'id -u; echo from $RUNNER_JOB_ID > shared; echo key=value >> $RUNNER_OUTPUT'}
  - id: there
    executor: docker
    docker: {image: "box:1"}
    run: |
      cat shared; echo $STEP_HERE_KEY; pwd; exit 7
"""


def test_our_container_is_known_by_what_is_mounted_into_it() -> None:
    one = "a" * 64
    line = "36 35 8:1 /var/lib/docker/containers/{}/{} /etc/{} rw - ext4 /dev/sda1 rw\n"
    assert container_id(line.format(one, "hostname", "hostname")) == one
    assert container_id(line.format(one, "userdata/hosts", "hosts")) == one
    assert container_id("36 35 8:1 / / rw - ext4 /dev/sda1 rw\n") is None


def test_a_path_is_that_of_the_nearest_mount() -> None:
    mounts = {"/spool": "/volumes/x", "/spool/deep/": "/y/", "/": "/all"}
    assert seen_from_outside("/spool/j/work", mounts) == "/volumes/x/j/work"
    assert seen_from_outside("/spool/deep/z", mounts) == "/y/z"
    assert seen_from_outside("/spooled", mounts) == "/all/spooled"
    with pytest.raises(EngineTrouble, match="/elsewhere/j is in none of its mounts"):
        seen_from_outside("/elsewhere/j", {"/spool": "/x"})


@pytest.fixture(scope="module")
def image() -> Iterator[Engine]:
    """An engine with our image, built from a Debian of packages."""
    why = missing()
    if why is None and shutil.which("mmdebstrap") is None:
        why = "there is no mmdebstrap"
    if why is not None:
        pytest.skip(why)
    engine = Engine()
    try:
        docker = ["docker", "--host", engine.host]
        pack = ["tar", "-C", str(debian.tree("bookworm")), "-c", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as tree:
            subprocess.run([*docker, "import", "-", "base:1"], stdin=tree.stdout, check=True)
        assert tree.returncode == 0
        options = ["--network=host", "--build-arg", "BASE=base:1", "--tag", IMAGE]
        built = subprocess.run(
            [*docker, "build", "-f", "packaging/docker/Dockerfile", *options, "."],
            cwd=ROOT,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stdout + built.stderr
        yield engine
    finally:
        engine.close()


def run(
    engine: Engine, job: str, tmp_path: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "job.yaml").write_text(job)
    command = ["docker", "--host", engine.host, "run", "--rm", "--network=none", *options]
    command += ["-v", f"{tests}:/app/tests", IMAGE, "run", "/app/tests/job.yaml"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.heavy
@pytest.mark.root
def test_the_image_runs_a_job_and_ends_as_it_did(image: Engine, tmp_path: Path) -> None:
    done = run(image, "run: echo printed; pwd; exit 3\n", tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("printed\n/var/spool/runner/")
    assert "runnerctl: the job exited with status 3" in done.stderr
    assert image.containers() == []


@pytest.mark.heavy
@pytest.mark.root
def test_the_command_of_the_manual_works(image: Engine) -> None:
    """Word for word, but for the engine and the image's name."""
    command = 'docker run --rm -v "$PWD/tests:/app/tests" -v $SOCKET:/var/run/docker.sock'
    done = subprocess.run(
        ["sh", "-c", f"{command} --network=none {IMAGE} run /app/tests/job.yaml"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": image.host, "SOCKET": str(image.socket)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "hello from Debian GNU/Linux 12 (bookworm)\n" in done.stdout
    assert done.stdout.endswith("==> step answer\nroot ran this\n")


@pytest.mark.heavy
@pytest.mark.root
def test_a_job_in_the_image_has_containers_beside_it(image: Engine, tmp_path: Path) -> None:
    done = run(image, JOB, tmp_path, "-v", f"{image.socket}:/var/run/docker.sock")
    assert done.returncode == 7, done.stderr
    assert done.stdout == ("==> step here\n0\n==> step there\nfrom job\nvalue\n/work\n")
    assert image.containers() == []
    with image.client() as client:
        assert not client.volumes()["Volumes"]


@pytest.mark.heavy
@pytest.mark.root
def test_without_the_socket_a_container_is_refused_in_words(image: Engine, tmp_path: Path) -> None:
    done = run(image, JOB, tmp_path)
    assert done.returncode == 125, done.stderr
    assert "the container engine at unix:///var/run/docker.sock cannot be used" in done.stderr
