"""promises: what was acknowledged, and whether a spool keeps to it.

Acknowledged are: `submitted ID`, after the submitter's fsync; `worked ID ATTEMPT`, what the job did
in the world; and the lines of the daemon's log, which says what it has filed after the sync.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invariant import Filed, filed_in, violations

_ENDED = re.compile(r" runnerd: (\S+): (done|failed)(?: \((\w+)\))?, ")
_REFUSED = re.compile(r" runnerd: (\S+): refused as (\w+), ")
_POSTPONED = re.compile(r" runnerd: (\S+): attempt (\d+) failed, ")


@dataclass(frozen=True, slots=True)
class Job:
    """One file of the workload, and what may come of it.

    `reason`: of its failure. `tries`: attempts at most. `goes_on`: it is tried again after an
    interruption. `safe`: its submitter synced it.
    """

    id: str
    file: str
    text: str
    reason: str | None = None
    tries: int = 1
    goes_on: bool = False
    safe: bool = True


@dataclass(slots=True)
class Promises:
    """What the acknowledgements say."""

    serving: bool = False
    submitted: set[str] = field(default_factory=set)
    worked: Counter[tuple[str, int]] = field(default_factory=Counter)
    finished: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    postponed: set[tuple[str, int]] = field(default_factory=set)


def promises_in(acks: bytes) -> Promises:
    """Read the whole lines."""
    found = Promises()
    for line in acks[: acks.rfind(b"\n") + 1].decode(errors="replace").splitlines():
        words = line.split()
        found.serving |= " serves " in line
        if words[:1] == ["submitted"]:
            found.submitted.add(words[1])
        elif words[:1] == ["worked"]:
            found.worked[words[1], int(words[2])] += 1
        elif ended := _ENDED.search(line):
            found.finished[ended[1]] = ended[2], ended[3]
        elif refused := _REFUSED.search(line):
            found.finished[refused[1]] = "failed", refused[2]
        elif postponed := _POSTPONED.search(line):
            found.postponed.add((postponed[1], int(postponed[2])))
    return found


def broken(root: Path, jobs: Mapping[str, Job], before: Promises, after: Promises) -> list[str]:
    """What does not hold in a spool after a power cut and a recovery.

    `before`: what was promised before the cut; `after`: with the recovery.
    """
    filed, _ = filed_in(root)
    there = {each.id for each in filed} & jobs.keys()  # what was not safe may be there or not
    effects = Counter[str]()
    for (job_id, _attempt), times in after.worked.items():
        effects[job_id] += times
    wrong = violations(root, before.submitted | there, effects)
    wrong = [each for each in wrong if not _is_of_submitter(each)]
    wrong += [
        f"{job_id}: attempt {attempt} worked {times} times"
        for (job_id, attempt), times in sorted(after.worked.items())
        if times > 1
    ]
    for each in filed:
        if each.id in jobs:
            wrong += _about(root, each, jobs[each.id], before)
    wrong += [f"{each}: was filed, and is lost" for each in sorted(before.finished.keys() - there)]
    return wrong


def _is_of_submitter(complaint: str) -> bool:
    """A file that was being written when the machine stopped is its submitter's to remove."""
    return re.fullmatch(r"(incoming|control)/\.\S+ was left", complaint) is not None


def _about(root: Path, filed: Filed, job: Job, before: Promises) -> list[str]:
    """What is wrong with one job."""
    result, wrong = filed.result, []
    end = filed.place, result["reason"]
    promised = before.finished.get(filed.id)
    if promised is not None and end != promised:
        wrong.append(f"was filed as {promised}, is {end}")
    if result["submitter"] == "":
        wrong.append("was not understood")
    ends = {job.reason, "interrupted"} | (set() if job.safe else {"invalid"})  # it may be empty
    if end[1] not in ends:
        wrong.append(f"ended as {end}")
    wrong += _about_attempts(filed, job, before)
    wrong += _about_files(root / filed.place / filed.id, filed)
    return [f"{filed.id}: {each}" for each in wrong]


def _about_attempts(filed: Filed, job: Job, before: Promises) -> list[str]:
    attempts = filed.result["attempts"]
    assert isinstance(attempts, list)
    reasons = [each["reason"] for each in attempts]
    wrong = []
    if len(reasons) > job.tries:
        wrong.append(f"{len(reasons)} attempts")
    if "interrupted" in reasons[:-1] and not job.goes_on:
        wrong.append("was tried again after an interruption")
    for job_id, number in sorted(before.postponed):
        if job_id == filed.id and (len(reasons) < number or reasons[number - 1] == "interrupted"):
            wrong.append(f"attempt {number} had failed, and is {reasons}")
    return wrong


def _about_files(directory: Path, filed: Filed) -> list[str]:
    """The log of every attempt that was seen to end, and what was kept of the job."""
    attempts = filed.result["attempts"]
    assert isinstance(attempts, list)
    if not attempts and not _content(directory / "output.log"):
        return ["has no word of why it was refused"]
    kept = filed.result["artifacts"]
    assert isinstance(kept, list)
    return [
        f"the artifact {each['path']} is not whole"
        for each in kept
        if len(_content(directory / "artifacts" / each["path"])) != each["size"]
    ] + [
        f"the log of attempt {each['number']} is not whole: {_content(directory / each['log'])!r}"
        for each in attempts
        if each["reason"] in (None, "exit")
        and f"printed by {filed.id.partition('.')[0]}\n".encode()
        not in _content(directory / each["log"])
    ]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def torn_copies(root: Path, jobs: Iterable[Job]) -> tuple[int, list[str]]:
    """In how many filed jobs job.yaml is not what was dropped, and where .claim is not either."""
    torn, wrong = 0, []
    for job in jobs:
        for place in ("done", "failed"):
            directory = root / place / job.id
            if not job.safe or not directory.is_dir():
                continue
            torn += _content(directory / "job.yaml") != job.text.encode()
            if _claimed_text(directory) != job.text:
                wrong.append(f"{job.id}: .claim does not have what was submitted")
    return torn, wrong


def _claimed_text(directory: Path) -> str | None:
    try:
        text = json.loads(_content(directory / ".claim").split(b"\n")[0])["text"]
    except ValueError:
        return None
    return str(text)
