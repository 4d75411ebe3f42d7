"""served: what one does where runnerd runs: drop jobs, read their results and the journal."""

from __future__ import annotations

import contextlib
import json
import os

from booted import Booted

SPOOL = "/var/spool/runner"


def drop(system: Booted, name: str, text: str, *, spool: str = SPOOL) -> None:
    """As root, who says that it is meant (runnerctl submit does that for people)."""
    incoming = system.path(f"{spool}/incoming")
    (incoming / f".{name}").write_text(text)
    with contextlib.suppress(OSError):  # tmpfs keeps none; where it is needed, the job is denied
        os.setxattr(incoming / f".{name}", "user.runnerd.job", b"yes")
    (incoming / f".{name}").rename(incoming / f"{name}.yaml")


def hold(system: Booted, name: str, *, then: str = "echo ended", spool: str = SPOOL) -> None:
    """A job that runs and waits, for `release`."""
    os.mkfifo(system.path(f"/run/{name}"))
    drop(system, name, f"run: |\n  echo begun\n  read x < /run/{name}\n  {then}\n", spool=spool)
    log = system.path(f"{spool}/running/{name}/output.log")
    system.await_that(lambda: log.exists() and log.read_text() == "begun\n", "it does not start")


def release(system: Booted, name: str) -> None:
    """Let a held job go on."""

    def wrote() -> bool:
        with contextlib.suppress(OSError):  # nobody reads: not yet, or the job is dead
            fd = os.open(system.path(f"/run/{name}"), os.O_WRONLY | os.O_NONBLOCK)
            with os.fdopen(fd, "w") as gate:
                gate.write("go\n")
            return True
        return False

    system.await_that(wrote, f"the job {name} does not wait any more")


def result(system: Booted, name: str, *, spool: str = SPOOL) -> dict[str, object]:
    """Of a job that has ended, or is awaited."""
    places = [system.path(f"{spool}/{each}/{name}/result.json") for each in ("done", "failed")]
    system.await_that(lambda: any(each.exists() for each in places), f"{name} has no result")
    (found,) = [each for each in places if each.exists()]
    answer: dict[str, object] = json.loads(found.read_text())
    return answer


def entries(system: Booted, *match: str) -> list[dict[str, str | None]]:
    """What the journal has of the daemon and its runners."""
    system.run("journalctl", "--sync")
    text = system.run("journalctl", "--no-pager", "-u", "runnerd", "-o", "json", *match)
    found = map(json.loads, text.splitlines())
    return [{"JOB_STATE": None, **each} for each in found]
