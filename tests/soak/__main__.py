"""soak: a real daemon under load that is killed, stopped and reloaded at random, and watched.

    python tests/soak --minutes 5            all kinds of jobs and of trouble; memory, descriptors
    python tests/soak --jobs 10000 --kill    a kill -9 every 50 to 300 ms; each job is filed once
    python tests/soak --restarts 100         jobs do not notice that the daemon is restarted

Exit status 1 if anything that must hold does not. `--seed` repeats the choices, though not the
times at which they meet the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from drift import drift, held, line
from mixture import RETRY, Mixture
from stage import Stage, await_that, staged

SAY_EVERY_S = 10.0
BACKLOG = 40
ROUND_S = 60.0


def main() -> None:
    options = parse_options()
    rng = random.Random(options.seed)  # noqa: S311  # for variety
    print(f"seed {options.seed}, {options.slots} slots", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="runnerd-soak-", dir=options.dir) as scratch,
        staged(Path(scratch), rng, options.slots) as stage,
    ):
        began = time.monotonic()
        if options.restarts:
            wrong = restarts(stage, options.restarts, options.max_gap)
        elif options.kill:
            wrong = kills(stage, options.jobs)
        else:
            wrong = soak(stage, options.minutes * 60)
        report(stage, time.monotonic() - began, wrong)
    sys.exit(1 if wrong else 0)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the soak; default 5")
    parser.add_argument("--jobs", type=int, default=10_000, help="of --kill")
    parser.add_argument("--kill", action="store_true", help="many jobs, and kill -9 throughout")
    parser.add_argument(
        "--restarts", type=int, default=0, help="how many, by TERM and KILL in turn"
    )
    parser.add_argument("--max-gap", type=float, default=1.0, help="of --restarts, in seconds")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--dir", help="where the spool is made; default: the temporary directory")
    return parser.parse_args()


# --- a: the soak ------------------------------------------------------------------------------


def soak(stage: Stage, seconds: float) -> list[str]:
    """Rounds of chaos and quiet, and at the end a quiet time of a quarter of all."""
    wrong: list[str] = []
    end = time.monotonic() + seconds
    last = end - seconds / 4
    mixture = Mixture(stage)
    while not wrong and time.monotonic() < last:
        part = min(ROUND_S, last - time.monotonic()) / 2
        wrong += chaos(stage, mixture, part) or quiet(stage, mixture, part)
    return wrong or quiet(stage, mixture, end - time.monotonic())


def chaos(stage: Stage, mixture: Mixture, seconds: float) -> list[str]:
    """Load, and something happens to the daemon or a runner all the time."""
    daemon = [stage.kill_daemon, stage.kill_daemon, stage.stop_daemon, stage.reload]
    load(stage, mixture, seconds, [*daemon, *[stage.kill_runner] * 2], every_s=(0.05, 1.5))
    stage.drain()
    return stage.verify()


def quiet(stage: Stage, mixture: Mixture, seconds: float) -> list[str]:
    """Load on one daemon that lives; what it holds after a warm-up is what it holds at the end."""
    wrong: list[str] = []
    began, before = time.monotonic(), None
    while not wrong:
        left = began + seconds - time.monotonic()
        if left <= 0 and before is not None:
            break
        part = seconds / 3 if before is None else min(left, ROUND_S)
        load(stage, mixture, part, [stage.reload, stage.kill_youngest_runner], every_s=(1, 5))
        stage.drain()
        wrong += stage.verify() + fill_slots(stage)
        assert stage.box.daemon is not None
        now = held(stage.box.daemon.pid)
        print(f"    {'warm' if before is None else 'then'}: {line(now)}", flush=True)
        if before is not None:
            wrong += drift(before, now)
        before = before or now
    return wrong


def fill_slots(stage: Stage) -> list[str]:
    """Have a runner in each slot."""
    for each in range(stage.slots):
        job_id = f"fill-{time.monotonic_ns()}-{each}"
        stage.drop(job_id, f"run: |\n  {stage.work()}\n  sleep 0.5\n")
    stage.drain()
    await_that(lambda: len(stage.runners()) >= stage.slots, 10)
    return stage.verify()


def load(
    stage: Stage,
    mixture: Mixture,
    seconds: float,
    happens: Sequence[Callable[[], None]],
    every_s: tuple[float, float],
) -> None:
    """Keep a backlog for so long, let one of these happen now and then, and say how it goes."""
    until = say_at = time.monotonic()
    until, next_at = until + seconds, until + every_s[0]
    while (now := time.monotonic()) < until:
        if len(os.listdir(stage.box.path("incoming"))) < BACKLOG:
            for _ in range(stage.rng.randrange(10)):
                mixture.drop()
        if now >= next_at:
            stage.rng.choice(happens)()
            next_at = now + stage.rng.uniform(*every_s)
        if now >= say_at:
            say(stage)
            say_at = now + SAY_EVERY_S
        time.sleep(0.02)


def say(stage: Stage) -> None:
    counts = ", ".join(f"{each} {number}" for each, number in sorted(stage.counts.items()))
    print(f"{datetime.now().astimezone():%H:%M:%S} {counts}", flush=True)


# --- b: kills ---------------------------------------------------------------------------------


def kills(stage: Stage, jobs: int) -> list[str]:
    """Many jobs, and a kill every 50 to 300 ms: of a runner, or now and then of the daemon."""
    rng = stage.rng
    for number in range(jobs):
        pause = rng.choice([0, 0, 0.01, 0.05])
        text = f"run: |\n  {stage.work()}\n  sleep {pause}\n"
        again = RETRY % "interrupted" if rng.random() < 0.2 else ""
        stage.drop(f"j{number}", text + again)
    said_at = 0.0
    while stage.waiting():
        time.sleep(rng.uniform(0.05, 0.3))
        if rng.random() < 0.25:
            stage.kill_daemon()
        else:
            stage.kill_runner()
        if time.monotonic() > said_at + SAY_EVERY_S:
            said_at = time.monotonic()
            print(f"{stage.waiting()} wait or run", flush=True)
            say(stage)
    stage.counts["interrupted"] = stage.box.log.read_text().count("interrupted")
    return stage.verify()


# --- c: restarts ------------------------------------------------------------------------------


def restarts(stage: Stage, times: int, max_gap_s: float) -> list[str]:
    """Restart the daemon under load. No job ends by it, none has a second attempt, none waits."""
    rng, number, starts_s = stage.rng, 0, [0.0]
    deadline = time.monotonic() + 60 + 10 * times
    for turn in range(times):
        until = time.monotonic() + rng.uniform(0.2, 1.5)
        while time.monotonic() < until:
            while len(os.listdir(stage.box.path("incoming"))) < BACKLOG:
                pause = rng.choice([0, 0.05, 0.2, rng.uniform(0, 2)])
                stage.drop(f"j{number}", f"run: |\n  {stage.work()}\n  sleep {pause:.3f}\n")
                number += 1
            time.sleep(0.01)
        (stage.stop_daemon, stage.kill_daemon)[turn % 2]()
        ended_at = time.monotonic()
        stage.box.await_notice("READY=1")
        starts_s.append(time.monotonic() - ended_at)
        assert time.monotonic() < deadline, "this takes too long"
    backlog_until = time.time()
    stage.drain()
    wrong, spans = [], []
    for job_id in stage.must:
        file = stage.box.path("done", job_id, "result.json")
        result = json.loads(file.read_bytes()) if file.exists() else {"attempts": []}
        if len(result["attempts"]) != 1:
            wrong.append(f"{job_id}: not done in one attempt")
            continue
        spans.append((seconds(result["started_at"]), seconds(result["finished_at"])))
    gaps_s = sorted(gaps(spans, stage.slots, backlog_until))
    gap_s = gaps_s[-1]
    stage.counts["largest gap, ms"] = round(gap_s * 1000)
    stage.counts["slowest start, ms"] = round(max(starts_s) * 1000)
    stage.counts["gap, p50, ms"] = round(gaps_s[len(gaps_s) // 2] * 1000)
    stage.counts["gap, p95, ms"] = round(gaps_s[int(len(gaps_s) * 0.95)] * 1000)
    if gap_s > max_gap_s:
        wrong.append(f"a free slot stayed empty for {gap_s:.2f} s, more than {max_gap_s} s")
    return wrong + stage.verify()


def gaps(spans: list[tuple[float, float]], slots: int, until: float) -> list[float]:
    """How long slots stayed empty while jobs waited: the n-th end is for the start n + slots."""
    starts, ends = sorted(start for start, _ in spans), sorted(end for _, end in spans)
    pairs = zip(starts[slots:], ends, strict=False)
    return [start - end for start, end in pairs if end < until]


def seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def report(stage: Stage, took_s: float, wrong: list[str]) -> None:
    print(f"\n{'seconds':20} {took_s:10.1f}")
    for what, number in sorted(stage.counts.items()):
        print(f"{what:20} {number:10}")
    for each in wrong[:100]:
        print(f"WRONG: {each}")
    print(f"{len(wrong)} violations", flush=True)
    if wrong:
        print("\n".join(stage.box.log.read_text(errors="replace").splitlines()[-100:]))


if __name__ == "__main__":
    main()
