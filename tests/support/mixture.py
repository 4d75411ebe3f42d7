"""Jobs of all kinds, and what submitters do with a file that waits."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

from stage import Stage

RETRY = "retry: {max: 4, delay: 0.1s, max_delay: 0.5s, on: [%s]}\n"


class Mixture:
    """Drops one thing after the other, each under an id of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rng = stage.rng
        self._numbers = itertools.count()
        self._recent: list[str] = []
        self._kinds: list[tuple[int, Callable[[str], None]]] = [
            (30, self._job),
            (3, self._copied),
            (3, self._bundle),
            (3, self._removed),
            (3, self._replaced),
            (2, self._link),
            (3, self._cancelled),
            (2, self._resubmitted),
        ]

    def drop(self) -> None:
        """One thing more."""
        weights = [weight for weight, _ in self._kinds]
        act = self._rng.choices([each for _, each in self._kinds], weights)[0]
        job_id = f"{act.__name__.strip('_')}-{next(self._numbers)}"
        act(job_id)
        self._recent = [*self._recent[-30:], job_id]

    def text(self) -> str:
        """A job file, or something that only looks like one."""
        work = self._stage.work()
        pause = self._rng.choice([0, 0, 0, 0.01, 0.05, 0.3])
        forks = '(trap "" TERM HUP; exec setsid sleep 1000) &'
        plain = f"run: |\n  {work}\n  sleep {pause}\n"
        steps = f"steps:\n  - {{id: a, run: '{work}; echo a=b >> $RUNNER_OUTPUT'}}\n"
        return self._rng.choice(
            [
                *[plain] * 8,
                plain + f"  exit {self._rng.randrange(3)}\n" + RETRY % "exit",
                plain + RETRY % "interrupted",
                plain + RETRY % "exit, interrupted, timeout",
                plain + "  exit 3\n",
                plain + "  kill -9 $$\n",
                f"run: |\n  {work}\n  sleep 30\ntimeout: 0.2s\nkill_after: 0.1s\n",
                f"run: |\n  {work}\n  sleep 30\ntimeout: 0.1s\n" + RETRY % "timeout",
                f"run: |\n  {work}\n  {forks}\n  sleep {pause}\n",
                f"run: |\n  {work}\n  head -c 3000000 /dev/zero\nlimits: {{output: 1M}}\n",
                f"run: |\n  {work}\n  head -c 3000000 /dev/zero > big\nlimits: {{file_size: 1M}}\n",
                f"run: |\n  {work}\n  echo '50 half' >> $RUNNER_PROGRESS\n  sleep {pause}\n",
                f"command: [sh, -c, '{work}']\npriority: {self._rng.randrange(5)}\n",
                plain + f"concurrency: {{group: g{self._rng.randrange(3)}}}\ndelay: 0.1s\n",
                steps + f"  - run: sleep {pause}\n  - {{if: always, run: 'true'}}\n",
                steps
                + f"  - {{needs: [a], run: 'true'}}\n  - {{needs: [a], run: sleep {pause}}}\n",
                "run: [\n",
                "rum: x\n",
                "",
            ]
        )

    def _job(self, job_id: str) -> None:
        self._stage.drop(job_id, self.text())

    def _copied(self, job_id: str) -> None:
        """By cp: the name is there before the content."""
        data = self.text().encode()
        fd = os.open(self._path(job_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        for at in range(0, len(data), 20):
            os.write(fd, data[at : at + 20])
        os.close(fd)
        self._stage.must.add(job_id)
        self._stage.counts["jobs"] += 1

    def _bundle(self, job_id: str) -> None:
        """With an input file."""
        staged = self._stage.box.scratch / "bundle"
        staged.mkdir(mode=0o700)
        for name in ("job.yaml", "input"):
            (staged / name).write_text(self.text())
        staged.rename(self._stage.box.path("incoming", job_id))
        self._stage.must.add(job_id)
        self._stage.counts["jobs"] += 1

    def _removed(self, job_id: str) -> None:
        """What was taken away from the queue never runs; what was not there any more does."""
        self._job(job_id)
        for _ in range(self._rng.randrange(200)):
            pass
        try:
            os.unlink(self._path(job_id))  # noqa: PTH108  # a path as text
        except FileNotFoundError:
            return
        self._stage.must.discard(job_id)
        self._stage.counts["removed"] += 1

    def _replaced(self, job_id: str) -> None:
        """The old one runs, and the new one under the next free id; or the new one alone."""
        self._job(job_id)
        self._stage.box.drop(job_id, self.text())
        self._stage.may.add(f"{job_id}.2")

    def _link(self, job_id: str) -> None:
        os.symlink("/etc/passwd", self._path(job_id))  # noqa: PTH211  # a path as text
        self._stage.must.add(job_id)
        self._stage.counts["jobs"] += 1

    def _cancelled(self, job_id: str) -> None:
        self._job(job_id)
        self._stage.box.control(f"{self._rng.choice([job_id, *self._recent])}.cancel")

    def _resubmitted(self, job_id: str) -> None:
        """A request is done at most once: it may come when the job has not ended, or get lost."""
        self._job(job_id)
        again = self._rng.choice([job_id, *self._recent])
        self._stage.box.control(f"{again}.retry")
        taken = self._stage.may | self._stage.must
        free = (f"{again}.{n}" for n in itertools.count(2))
        self._stage.may.add(next(each for each in free if each not in taken))

    def _path(self, job_id: str) -> str:
        return str(self._stage.box.path("incoming", f"{job_id}.yaml"))
