"""floor: the limit of the disk and the kernel. What a durable job asks of them, and nothing else.

One process a slot makes the calls that a job costs (strace tells them, tests/spool/test_cost.py
counts them), one job after the other, without a daemon, a queue, a decision or a line of the log.
No program that keeps the same promises can be faster by more than it leaves out of these.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import select
import shutil
import signal
import time
from pathlib import Path

from tests.bench.measure import JOB, scratch

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CLAIM, STARTED, RESULT = bytes(357), bytes(125), bytes(987)  # as long as they are
SH = shutil.which("sh") or "/bin/sh"


def rate(jobs: int, slots: int, directory: str | None) -> float:
    """Jobs in a second."""
    fork = multiprocessing.get_context("fork")
    with contextlib.closing(Floor(scratch(directory), jobs)) as floor:
        processes = [
            fork.Process(target=floor.run, args=(range(slot, jobs, slots),))
            for slot in range(slots)
        ]
        began = time.monotonic()
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        took_s = time.monotonic() - began
        assert len(os.listdir(floor.done)) == jobs
    return jobs / took_s


class Floor:
    """A spool in which so many jobs wait."""

    def __init__(self, here: Path, jobs: int) -> None:
        made = [here / name for name in ("incoming", "running", "done")]
        for each in made:
            each.mkdir()
        self.incoming, self.running, self.done = (os.open(each, READ) for each in made)
        self.null = os.open(os.devnull, READ)
        for number in range(jobs):
            (made[0] / f"{number}.yaml").write_text(JOB)

    def close(self) -> None:
        for each in (self.incoming, self.running, self.done, self.null):
            os.close(each)

    def run(self, numbers: range) -> None:
        """All of these."""
        spare = f".spare.{os.getpid()}"
        os.mkfifo(spare, 0o600, dir_fd=self.running)
        for number in numbers:
            self._run(str(number), spare)

    def _run(self, name: str, spare: str) -> None:
        job, claim = self._claim(name)
        os.mkdir("work", dir_fd=job)
        work = os.open("work", READ, dir_fd=job)
        log = os.open("output.log", NEW, 0o644, dir_fd=job)
        os.link(spare, ".progress", src_dir_fd=self.running, dst_dir_fd=job)
        progress = os.open(".progress", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=job)
        os.write(claim, STARTED)
        self._supervise(work)
        for each in (log, work, progress):
            os.close(each)
        _look("job.yaml", job)
        self._file(name, job)
        os.close(claim)
        os.close(job)

    def _claim(self, name: str) -> tuple[int, int]:
        file = f"{name}.yaml"
        _look(file, self.incoming)
        os.mkdir(name, 0o700, dir_fd=self.running)
        job = os.open(name, READ, dir_fd=self.running)
        claim = os.open(".claim", NEW, 0o600, dir_fd=job)
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(claim, CLAIM)
        os.rename(file, "job.yaml", src_dir_fd=self.incoming, dst_dir_fd=job)
        os.fsync(claim)
        os.fsync(job)
        return job, claim

    def _supervise(self, work: int) -> None:
        """Start the job and see it to its end."""
        ours, its = os.pipe2(os.O_CLOEXEC)
        os.fchdir(work)
        pid = os.posix_spawn(
            SH,
            ["sh", "-c", "true"],
            {"PATH": os.defpath},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((self.null, 0), (its, 1), (its, 2))
            ],
            setsid=True,
        )
        os.close(its)
        process = os.pidfd_open(pid)
        for each in (ours, process):  # the end of its output, and its own
            poll = select.poll()
            poll.register(each, select.POLLIN)
            poll.poll()
        os.killpg(pid, signal.SIGKILL)
        os.wait4(pid, 0)
        os.close(process)
        os.close(ours)

    def _file(self, name: str, job: int) -> None:
        result = os.open(".result.json.new", NEW, 0o644, dir_fd=job)
        os.write(result, RESULT)
        os.fsync(result)
        os.close(result)
        os.rename(".result.json.new", "result.json", src_dir_fd=job, dst_dir_fd=job)
        os.unlink(".progress", dir_fd=job)
        os.rename(name, name, src_dir_fd=self.running, dst_dir_fd=self.done)


def _look(file: str, at: int) -> None:
    """Read a job file that nobody is writing."""
    fd = os.open(file, READ | os.O_NONBLOCK, dir_fd=at)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    os.pread(fd, os.fstat(fd).st_size + 1, 0)
    os.close(fd)
