"""What must hold of a spool at rest, whatever happened to it: nothing lost, nothing twice.

At rest: no daemon and no runner is at work, and nothing waits. `violations` looks from outside, at
files, locks and processes, and knows nothing of how the spool came to be.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import psutil

from runnerd.catalogue import Catalogue
from runnerd.schema import About, schema_of
from runnerd.spares import is_spare

PLACES = ("done", "failed")
EMPTY = ("incoming", "running", "control", "outbox")
DEAD = "dead"  # in the outbox: the dead letters
OURS = {".claim"}  # of hidden names, all that may stay in a filed job
_RESULTS = jsonschema.Draft202012Validator(schema_of(About.RESULT, Catalogue({})))


@dataclass(frozen=True)
class Filed:
    """One directory in done/ or failed/."""

    place: str
    result: dict[str, object]

    @property
    def id(self) -> str:
        return str(self.result["id"])

    @property
    def attempts(self) -> int:
        attempts = self.result["attempts"]
        assert isinstance(attempts, list)
        return len(attempts)


def filed_in(root: Path) -> tuple[list[Filed], list[str]]:
    """What was filed, and what is wrong with it."""
    found, wrong = [], []
    for place in PLACES:
        for name in sorted(os.listdir(root / place)):
            directory = root / place / name
            try:
                result = json.loads((directory / "result.json").read_bytes())
                _RESULTS.validate(result)
            except (OSError, ValueError, jsonschema.ValidationError) as error:
                wrong.append(f"{place}/{name} has no valid result: {str(error).splitlines()[0]}")
                continue
            found.append(Filed(place, result))
            if (result["id"], result["state"]) != (name, place):
                wrong.append(f"{place}/{name}: its result is of {result['state']}/{result['id']}")
            wrong += [f"{place}/{name}: {each}" for each in artifacts_wrong(directory, result)]
            hidden = {each for each in os.listdir(directory) if each.startswith(".")}
            wrong += [f"{place}/{name}: {each} was left" for each in sorted(hidden - OURS)]
            if not (directory / ".claim").exists():
                wrong.append(f"{place}/{name}: .claim is missing")
            elif is_locked(directory / ".claim"):
                wrong.append(f"{place}/{name}: still locked")
    return found, wrong


def artifacts_wrong(directory: Path, result: Mapping[str, Any]) -> list[str]:
    """Whether artifacts/ is what the result lists."""
    root = directory / "artifacts"
    listed = {each["path"]: (each["size"], each["sha256"]) for each in result["artifacts"]}
    there = {
        str(each.relative_to(root)): (each.stat().st_size, sha256(each.read_bytes()).hexdigest())
        for each in (root.rglob("*") if root.exists() else ())
        if not each.is_dir()
    }
    return [] if there == listed else [f"artifacts are {there}, and {listed} are listed"]


def violations(
    root: Path, submitted: Iterable[str], effects: Mapping[str, int] | None = None
) -> list[str]:
    """What does not hold. `submitted`: the ids; `effects`: how often a job's work was seen done.

    A job works once in each attempt: at most as often as its result has attempts, at least once if
    it is done.
    """
    filed, wrong = filed_in(root)
    for box in EMPTY:
        wrong += [
            f"{box}/{name} was left" for name in sorted(os.listdir(root / box)) if name != DEAD
        ]
    if (root / "outbox" / DEAD).exists():
        wrong += [f"{name} is a dead letter" for name in os.listdir(root / "outbox" / DEAD)]
    for name in os.listdir(root):
        if name not in (*PLACES, *EMPTY) and not is_spare(name):  # of a runner, or of one that died
            wrong.append(f"{name} was left")
    stores = ("running", *PLACES)  # made by a daemon that may have died in between
    modes = {name: (root / name).stat().st_mode & 0o7777 for name in stores}
    wrong += [f"{name} has mode {mode:04o}" for name, mode in modes.items() if mode != 0o755]
    seen = sorted(each.id for each in filed)
    wrong += [f"{each}: lost" for each in sorted(set(submitted) - set(seen))]
    wrong += [f"{each}: never submitted" for each in sorted(set(seen) - set(submitted))]
    wrong += [f"{each}: filed twice" for each in sorted({x for x in seen if seen.count(x) > 1})]
    for each in filed if effects is not None else ():
        times = (effects or {}).get(each.id, 0)
        if times > each.attempts:
            wrong.append(f"{each.id}: worked {times} times in {each.attempts} attempts")
        if each.place == "done" and times == 0:
            wrong.append(f"{each.id}: done, and never worked")
    wrong += [f"process {each.pid} is alive: {' '.join(cmdline(each))}" for each in living(root)]
    return wrong


def news_violations(
    root: Path, told: Path, wanted: Iterable[str], effects: Iterable[str] = ()
) -> list[str]:
    """What does not hold of the events that were told, a line of JSON for each.

    Each event that had to come came, in order for each job, and more than once only under one id.
    """
    wanted = set(wanted)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    by_job: dict[str, dict[str, dict[str, Any]]] = {}
    wrong = []
    for each in lines:
        events = by_job.setdefault(each["subject"], {})
        before = events.setdefault(each["id"], each)
        if before["type"] != each["type"]:
            wrong.append(f"{each['subject']}: two events have the id {each['id']}")
    filed = {each.id: each for each in filed_in(root)[0]} if wanted else {}
    wrong += [f"{job}: told of, and not filed" for job in by_job.keys() - filed.keys()]
    effects = list(effects)
    for job_id, job in filed.items():
        told_of = list(by_job.get(job_id, {}).values())
        words = [each["type"].removeprefix("runnerd.job.") for each in told_of]
        if words.count("finished") != 1 or words[-1] != "finished":
            wrong.append(f"{job_id}: the end is not told, once and last: {words}")
        elif told_of[-1]["data"] != job.result:
            wrong.append(f"{job_id}: the end that is told is not the result")
        attempts = [each["data"]["attempt"] for each in told_of if "attempt" in each["data"]]
        if attempts != sorted(attempts):
            wrong.append(f"{job_id}: told in the wrong order: {words} of attempts {attempts}")
        if words.count("retrying") != max(0, job.attempts - 1):
            wrong.append(f"{job_id}: {job.attempts} attempts, and told: {words}")
        if not effects.count(job_id) <= words.count("started") <= job.attempts:
            wrong.append(f"{job_id}: worked {effects.count(job_id)} times, and told: {words}")
    return wrong


def living(root: Path) -> list[psutil.Process]:
    """The processes, but for this one, that know the spool."""
    others = (each for each in psutil.process_iter() if each.pid != os.getpid())
    return [each for each in others if _knows(each, str(root))]


def named(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    """Those of this name; any of them may end meanwhile."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() == name:
                found.append(each)
    return found


def cmdline(process: psutil.Process) -> list[str]:
    """Its arguments, or none if it is gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return list(process.cmdline())
    return []


def _knows(process: psutil.Process, root: str) -> bool:
    """Whether the spool shows in its arguments, its environment, or in what it has open.

    A zombie shows none of these, and can do nothing.
    """
    words = cmdline(process)
    with contextlib.suppress(psutil.Error, OSError):
        words.append(process.environ().get("RUNNER_JOB_DIR", ""))
    with contextlib.suppress(psutil.Error, OSError):
        words.append(process.cwd())
    with contextlib.suppress(OSError):
        words += map(os.readlink, Path(f"/proc/{process.pid}/fd").iterdir())
    return any(root in word for word in words)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of a claim."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
