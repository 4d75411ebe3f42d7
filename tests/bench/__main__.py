"""bench: how fast runnerd is, beside xargs -P in the same run. Ratios, not absolute times.

    python tests/bench [--jobs N] [--rounds N] [--slots N]

Throughput: N files with the job `sh -c true`, renamed into incoming/ of an idle daemon, until the
last one lies in done/; every claim and result is synced. xargs -P runs the same command N times.
Latency: from the rename of one file, daemon idle, to the first instruction of its job, which prints
the time; for xargs from its start to the same.
Output: what `head -c` writes through a job's pipe into its log, beside `head -c | cat > file`.
Containers: from the rename of a docker job to its filing, beside `docker run` of the same image
with the same restrictions; by an engine of the bench's own, where there is one to start.
Backlog: what the queue costs for one job when 20,000 wait, beside when 2,000 do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import engine

from runnerd.schedule import DEFAULT_QUEUE, Occupancy, Queue, Queued

PROBE = ["date", "+%s%N"]
PATIENCE_S = 300
OUTPUT_BYTES = 256 << 20


def main() -> None:
    options = parse_options()
    rates: dict[str, list[float]] = {}
    latencies_ms: dict[str, list[float]] = {}
    outputs: list[float] = []
    with tempfile.TemporaryDirectory(prefix="runnerd-bench-", dir=options.dir) as scratch:
        for number in range(options.rounds):
            here = Path(scratch) / str(number)
            here.mkdir()
            rates.setdefault("xargs", []).append(xargs_rate(options.jobs, options.slots))
            with daemon(here, options.slots) as spool:
                rates.setdefault("runnerd", []).append(runnerd_rate(here, spool, options.jobs))
                for index in range(options.probes):
                    sample = runnerd_latency_ms(here, spool, index)
                    latencies_ms.setdefault("runnerd", []).append(sample)
                    latencies_ms.setdefault("xargs", []).append(xargs_latency_ms())
                outputs.append(cat_output_s(here) / runnerd_output_s(here, spool))
    report(options, rates, latencies_ms)
    print(f"output, of cat > file: {statistics.median(outputs):.2f}")
    backlog = [queue_cost_s(20_000) / queue_cost_s(2_000) for _ in range(options.rounds)]
    print(f"container job, of docker run: {container_ratio(options.containers)}")
    print(f"queue, a job among 20,000 beside one among 2,000: {statistics.median(backlog):.2f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--probes", type=int, default=20, help="latency samples in each round")
    parser.add_argument("--containers", type=int, default=10, help="docker jobs, in each round")
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dir", help="where the spool is made; default: the temporary directory")
    return parser.parse_args()


@contextmanager
def daemon(here: Path, slots: int) -> Iterator[Path]:
    """A daemon on a new spool, ready and idle."""
    config, spool = here / "runnerd.yaml", here / "spool"
    config.write_text(f"slots: {slots}\n")
    program = [sys.executable, "-m", "runnerd", "--config", str(config), "--spool", str(spool)]
    with (here / "log").open("wb") as log, subprocess.Popen(program, stderr=log) as process:
        try:
            drop(here, spool, "ready", ["true"])
            yield spool
        finally:
            process.send_signal(signal.SIGTERM)


def drop(here: Path, spool: Path, name: str, command: list[str]) -> int:
    """Rename one job into the queue and wait for its end; the time of the rename (ns)."""
    return drop_text(here, spool, name, f"command: {command}\n")


def drop_text(here: Path, spool: Path, name: str, text: str) -> int:
    staged, filed = here / f"{name}.yaml", spool / "done" / name
    staged.write_text(text)
    await_that((spool / "incoming").is_dir)
    dropped_at = time.time_ns()
    staged.rename(spool / "incoming" / staged.name)
    await_that(filed.is_dir)
    return dropped_at


def runnerd_rate(here: Path, spool: Path, jobs: int) -> float:
    staged = here / "staged"
    staged.mkdir()
    for number in range(jobs):
        (staged / f"j{number}.yaml").write_text("command: [sh, -c, 'true']\n")
    done, before = spool / "done", len(os.listdir(spool / "done"))
    began = time.monotonic()
    for each in os.listdir(staged):
        (staged / each).rename(spool / "incoming" / each)
    await_that(lambda: len(os.listdir(done)) == before + jobs)
    return jobs / (time.monotonic() - began)


def xargs_rate(jobs: int, slots: int) -> float:
    numbers = "\n".join(map(str, range(jobs)))
    command = ["xargs", "-P", str(slots), "-n", "1", "sh", "-c", "true"]
    began = time.monotonic()
    subprocess.run(command, input=numbers, text=True, check=True)
    return jobs / (time.monotonic() - began)


def runnerd_latency_ms(here: Path, spool: Path, index: int) -> float:
    dropped_at = drop(here, spool, f"probe{index}", PROBE)
    printed = (spool / "done" / f"probe{index}" / "output.log").read_text()
    return (int(printed) - dropped_at) / 1e6


def xargs_latency_ms() -> float:
    began = time.time_ns()
    done = subprocess.run(["xargs", "-P", "1", *PROBE], input="", capture_output=True, check=True)
    return (int(done.stdout) - began) / 1e6


def runnerd_output_s(here: Path, spool: Path) -> float:
    drop(here, spool, "output", ["head", "-c", str(OUTPUT_BYTES), "/dev/zero"])
    result = json.loads((spool / "done/output/result.json").read_bytes())
    return float(result["duration_s"])


def cat_output_s(here: Path) -> float:
    command = f"head -c {OUTPUT_BYTES} /dev/zero | cat > {here / 'cat'}"
    began = time.monotonic()
    subprocess.run(["sh", "-c", command], check=True)
    return time.monotonic() - began


def container_ratio(count: int) -> str:
    """How long a docker job takes beside `docker run`, alternately; in a word, if there is none."""
    lacking = engine.missing() or ("" if shutil.which("docker") else "there is no docker")
    if lacking:
        return f"not measured, {lacking}"
    ours, theirs = [], []
    with (
        contextlib.closing(engine.Engine()) as started,
        tempfile.TemporaryDirectory(prefix="runnerd-bench-") as scratch,
    ):
        os.environ["DOCKER_HOST"] = started.host
        here = Path(scratch)
        text = f"executor: docker\ndocker: {{image: '{engine.IMAGE}'}}\ncommand: ['true']\n"
        with daemon(here, 1) as spool:
            drop_text(here, spool, "warm", text)
            for number in range(count):
                began = time.monotonic()
                drop_text(here, spool, f"c{number}", text)
                ours.append(time.monotonic() - began)
                theirs.append(docker_run_s(here))
    ratio = statistics.median(ours) / statistics.median(theirs)
    return f"{ratio:.2f} ({statistics.median(ours):.3f} s)"


def docker_run_s(here: Path) -> float:
    """What a job gets, by hand."""
    restricted = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command = ["docker", "run", "--rm", *restricted, "--volume", f"{here}:/work", engine.IMAGE]
    began = time.monotonic()
    subprocess.run([*command, "true"], check=True)
    return time.monotonic() - began


def queue_cost_s(waiting: int) -> float:
    """CPU time of a thousand jobs that come up and end while so many others wait."""
    numbers = random.Random(7)  # noqa: S311  # the same for both
    queue, taken, slots = Queue(), Occupancy(), {DEFAULT_QUEUE: 2, "mail": 1}
    for n in range(waiting):
        queue.add(
            Queued(
                name=f"{n}",
                id=f"{n}",
                dropped_at_ns=n,
                inode=n,
                queue=numbers.choice(list(slots)),
                priority=numbers.randrange(5),
                group=f"g{numbers.randrange(50)}" if n % 2 else None,
            )
        )
    began, running = time.process_time(), []
    for _ in range(1000):
        while (job := queue.next(1.0, slots, taken)) is not None:
            taken.take(job.id, job.lane)
            running.append(job)
        group = taken.free(running.pop(0).id)
        if group is not None:
            queue.room_in(group)
    return time.process_time() - began


def await_that(fact: object) -> None:
    assert callable(fact)
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            sys.exit(f"bench: waited {PATIENCE_S} s in vain")
        time.sleep(0.01)


def report(
    options: argparse.Namespace, rates: dict[str, list[float]], latencies_ms: dict[str, list[float]]
) -> None:
    base = statistics.median(rates["xargs"])
    print(f"{options.jobs} jobs, {options.slots} slots, median of {options.rounds} rounds")
    print(f"{'':10} {'jobs/s':>8} {'of xargs -P':>12} {'drop to start, ms: p50':>24} {'p95':>7}")
    for name, found in rates.items():
        rate = statistics.median(found)
        sample = sorted(latencies_ms[name])
        p50, p95 = statistics.median(sample), sample[int(len(sample) * 0.95)]
        print(f"{name:10} {rate:8.0f} {rate / base:12.2f} {p50:24.2f} {p95:7.2f}")


if __name__ == "__main__":
    main()
