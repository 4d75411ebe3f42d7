"""Limits without a cgroup: what a program finds set as its first act, and what a look finds."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from spoolbox import until

import runnerd
from runnerd.errors import NotStartable
from runnerd.limits import Fences
from runnerd.model import IoShare, Limits, Reason
from runnerd.outcome import Exited, NotStarted, Outcome, Signalled, Stopped, Usage

pytestmark = pytest.mark.heavy

NOTHING = Usage(
    cpu_user_s=0.0, cpu_system_s=0.0, max_memory_bytes=None, read_bytes=0, write_bytes=0
)
MIB = 1 << 20


class Job:
    """A program behind fences, its own session's leader, as a runner starts it."""

    def __init__(self, limits: Limits, *argv: str) -> None:
        self.fences = Fences.around(limits, None, "j")
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self.fences.enter,  # noqa: PLW1509  # one thread; this is what is tested
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def go(self) -> None:
        """Let it read a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def outcome(self) -> Outcome:
        """Wait for its end."""
        self.process.communicate()
        code = self.process.returncode
        return Exited(code) if code >= 0 else Signalled(-code)

    def seen(self) -> str:
        """Look until there is something to say."""
        said: list[str] = []

        def is_over() -> bool:
            said.append(self.fences.look() or "")
            return bool(said[-1])

        until(is_over, "it was not noticed")
        return said[-1]

    def close(self) -> None:
        """End all of it: the tests' process is no reaper, so by its session."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid:
                    process.kill()
        self.process.communicate()
        self.fences.close()


Start = Callable[..., Job]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start_one(limits: Limits, *argv: str) -> Job:
            return stack.enter_context(contextlib.closing(Job(limits, *argv)))

        yield start_one


def script(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-ISc", text)


# --- what stands before the first instruction ---------------------------------------------------


@pytest.mark.parametrize("limits", [None, Limits(), Limits(output_bytes=5)])
def test_without_limits_there_is_nothing_to_do(limits: Limits | None) -> None:
    fences = Fences.around(limits, None, "j")
    assert not fences.needs_fork
    assert fences.look_every_s is None
    assert fences.explain(Signalled(signal.SIGKILL)) is None


@pytest.mark.parametrize(
    ("limits", "needs_fork", "is_watched"),
    [
        (Limits(memory_bytes=MIB), False, True),
        (Limits(processes=5), False, True),
        (Limits(cpu_time_s=5), True, True),
        (Limits(open_files=50), True, False),
        (Limits(file_size_bytes=0), True, False),
        (Limits(nice=0), True, False),
        (Limits(io=IoShare.IDLE), True, False),
    ],
)
def test_what_has_to_be_set_and_what_watched(
    limits: Limits,
    needs_fork: bool,  # noqa: FBT001  # a column of the table
    is_watched: bool,  # noqa: FBT001
) -> None:
    fences = Fences.around(limits, None, "j")
    assert (fences.needs_fork, fences.look_every_s is not None) == (needs_fork, is_watched)


@pytest.mark.parametrize(
    ("limits", "command", "shown"),
    [
        (Limits(open_files=77), "ulimit -n; ulimit -Hn", "77 77"),
        (Limits(file_size_bytes=10 * MIB), "ulimit -f; ulimit -Hf", "20480 20480"),
        (Limits(cpu_time_s=2.5), "ulimit -t; ulimit -Ht", "3 4"),
        (Limits(nice=7), "nice", "7"),
        (Limits(io=IoShare.IDLE), "ionice -p $$", "idle"),
        (Limits(io=IoShare.LOW), "ionice -p $$", "best-effort: prio 7"),
        (Limits(io=IoShare.NORMAL), "ionice -p $$", "best-effort: prio 4"),
        (Limits(io=IoShare.HIGH), "ionice -p $$", "best-effort: prio 0"),
    ],
)
def test_a_program_finds_its_limits_set(
    start: Start, limits: Limits, command: str, shown: str
) -> None:
    job = start(limits, *script(command))
    output, _ = job.process.communicate()
    assert " ".join(output.decode().split()) == shown


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="a kernel without autogroup")
def test_nice_counts_between_sessions(start: Start) -> None:
    job = start(Limits(nice=7), *script("cat /proc/self/autogroup"))
    assert job.line().endswith(" nice 7")


def test_other_limits_stay_as_they_were(start: Start) -> None:
    show = "ulimit -c -m -v -u; nice"
    alone = subprocess.run(script(show), capture_output=True, check=True).stdout
    job = start(Limits(open_files=50, cpu_time_s=9), *script(show))
    assert job.process.communicate()[0] == alone


def test_a_looser_limit_does_not_loosen_what_is_in_force() -> None:
    runner = (
        "from runnerd import limits, model\n"
        "import psutil\n"
        "limits.Fences.around(model.Limits(file_size_bytes=1 << 40), None, 'j').enter()\n"
        "print(psutil.Process().rlimit(psutil.RLIMIT_FSIZE))\n"
    )
    started = subprocess.run(
        script(f"ulimit -f 2048; exec {shlex.join([sys.executable, '-c', runner])}"),
        env={"PYTHONPATH": str(Path(runnerd.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    assert started.stdout.decode() == f"({MIB}, {MIB})\n"


# --- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Root's rights are put down for a while; others have none."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    yield
    os.seteuid(0)


def test_a_share_of_the_cpus_needs_a_cgroup() -> None:
    with pytest.raises(NotStartable, match=r"cpu: 150% cannot be held here: .*Delegate=yes"):
        Fences.around(Limits(cpu=1.5), None, "j")


@pytest.mark.usefixtures("ordinary_user")
def test_a_better_priority_is_not_for_everybody_to_give() -> None:
    if psutil.Process().rlimit(psutil.RLIMIT_NICE)[0] > 20:
        pytest.skip("here it is")
    with pytest.raises(NotStartable, match=r"nice -1 is not for runnerd to give"):
        Fences.around(Limits(nice=-1), None, "j")


@pytest.mark.root
def test_root_gives_a_better_priority(start: Start) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)
    except PermissionError:
        pytest.skip("a root without CAP_SYS_NICE")
    os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
    assert start(Limits(nice=-5), "nice").line() == "-5"


@pytest.mark.usefixtures("ordinary_user")
def test_more_open_files_than_we_may_give_are_refused() -> None:
    hard = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[1]
    with pytest.raises(NotStartable, match=rf"open_files .*: runnerd may give {hard} at most"):
        Fences.around(Limits(open_files=hard + 1), None, "j")


# --- what a look finds --------------------------------------------------------------------------

# Each of two children takes 60 MiB when it is told to, and says so.
TWO_EATERS = """
import os, signal, sys
for _ in range(2):
    if os.fork() == 0:
        sys.stdin.readline()
        eaten = bytearray(60 << 20)
        print("eaten", flush=True)
        signal.pause()
signal.pause()
"""
# Six processes that all have the same 60 MiB.
SHARERS = """
import os, signal
eaten = bytearray(60 << 20)
for _ in range(5):
    if os.fork() == 0:
        signal.pause()
print("forked", flush=True)
signal.pause()
"""
BURN = """
import sys, time
while time.process_time() < float(sys.argv[1]): pass
print("burnt", flush=True)
"""


def test_memory_is_summed_over_the_tree(start: Start) -> None:
    job = start(Limits(memory_bytes=100 * MIB), *python(TWO_EATERS))
    job.go()
    assert job.line() == "eaten"
    assert job.fences.look() is None
    job.go()
    assert job.line() == "eaten"
    assert job.fences.look() == "the job used more memory than its limit of 100M"
    peak = job.fences.usage(NOTHING).max_memory_bytes
    assert peak is not None
    assert 120 * MIB < peak < 200 * MIB


def test_memory_that_processes_share_counts_once(start: Start) -> None:
    job = start(Limits(memory_bytes=150 * MIB), *python(SHARERS))
    assert job.line() == "forked"
    children = psutil.Process().children(recursive=True)
    assert sum(each.memory_info().rss for each in children) > 300 * MIB
    assert job.fences.look() is None


@pytest.mark.parametrize(("children", "is_over"), [(7, False), (8, True)])
def test_too_many_processes_are_seen(
    start: Start,
    children: int,
    is_over: bool,  # noqa: FBT001  # a column of the table
) -> None:
    sleepers = "sleep 1000 & " * children
    job = start(Limits(processes=8), *script(f"{sleepers} echo forked; read x"))
    assert job.line() == "forked"
    said = "the job had more processes and threads than its limit of 8"
    assert job.fences.look() == (said if is_over else None)


def test_threads_count_as_processes(start: Start) -> None:
    threads = (
        "import signal, threading\n"
        "for _ in range(5): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print('started', flush=True)\n"
        "signal.pause()\n"
    )
    job = start(Limits(processes=5), *python(threads))
    assert job.line() == "started"
    assert job.fences.look() is not None


def test_cpu_time_is_summed_over_the_living(start: Start) -> None:
    burn = f"{shlex.join(python(BURN))} 60"
    job = start(Limits(cpu_time_s=0.5), *script(f"{burn} & {burn} & wait"))
    assert job.seen() == "the job used more CPU time than its limit of 0.5s"


def test_cpu_time_of_the_dead_counts(start: Start) -> None:
    burn = f"{shlex.join(python(BURN))} 0.3"
    job = start(Limits(cpu_time_s=0.5), *script(f"{burn}; {burn}; echo all; read x"))
    assert (job.line(), job.line(), job.line()) == ("burnt", "burnt", "all")
    assert job.fences.look() is not None
    job.go()
    assert job.outcome() == Exited(0)
    used = job.fences.usage(NOTHING)
    assert used.cpu_user_s + used.cpu_system_s >= 0.6


def test_a_job_does_not_pay_for_the_one_before(start: Start) -> None:
    assert start(Limits(nice=0), *python(BURN), "0.3").outcome() == Exited(0)
    job = start(Limits(cpu_time_s=0.2), *script("echo here; read x"))
    assert job.line() == "here"
    assert job.fences.look() is None


def test_a_job_within_its_limits_is_left_alone(start: Start) -> None:
    limits = Limits(memory_bytes=1 << 30, processes=50, cpu_time_s=60)
    job = start(limits, *script("echo here; read x"))
    assert job.line() == "here"
    assert job.fences.look() is None
    job.go()
    assert job.outcome() == Exited(0)
    assert job.fences.explain(Exited(0)) is None


# --- what is said afterwards --------------------------------------------------------------------


def test_cpu_time_is_held_even_if_nobody_looks(start: Start) -> None:
    job = start(Limits(cpu_time_s=1), *python(BURN), "60")
    outcome = job.outcome()
    assert outcome == Signalled(signal.SIGXCPU)
    assert job.fences.explain(outcome) == "the job used more CPU time than its limit of 1s"


def test_who_ignores_the_signal_is_killed_and_named(start: Start) -> None:
    ignore = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
    job = start(Limits(cpu_time_s=1), *python(ignore + BURN), "60")
    outcome = job.outcome()
    assert outcome == Signalled(signal.SIGKILL)
    assert job.fences.explain(outcome) == "the job used more CPU time than its limit of 1s"


WRITE = "head -c {count} /dev/zero > {file}"


@pytest.mark.parametrize("command", ["exec " + WRITE, WRITE + "; exit $?"])
def test_a_file_that_grows_too_large_is_named(start: Start, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    job = start(Limits(file_size_bytes=MIB), *script(command.format(count=2 * MIB, file=file)))
    outcome = job.outcome()
    assert outcome in (Signalled(signal.SIGXFSZ), Exited(128 + signal.SIGXFSZ))
    assert job.fences.explain(outcome) == (
        "the job wrote a file that was larger than its limit of 1M"
    )
    assert file.stat().st_size == MIB


def test_a_file_of_just_that_size_is_fine(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "file"
    job = start(Limits(file_size_bytes=MIB), *script(WRITE.format(count=MIB, file=file)))
    assert job.outcome() == Exited(0)


@pytest.mark.parametrize(
    "outcome",
    [
        Exited(0),
        Exited(1),
        Signalled(signal.SIGTERM),
        Signalled(signal.SIGKILL),  # without the CPU time to go with it
        Stopped(Reason.TIMEOUT, "it was late"),
        NotStarted("no"),
    ],
)
def test_no_limit_is_blamed_for_what_it_did_not_do(outcome: Outcome) -> None:
    limits = Limits(memory_bytes=MIB, cpu_time_s=3600, file_size_bytes=MIB, processes=5)
    assert Fences.around(limits, None, "j").explain(outcome) is None


@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGXFSZ])
def test_a_signal_means_nothing_if_no_limit_was_set(number: signal.Signals) -> None:
    assert Fences.around(Limits(open_files=50), None, "j").explain(Signalled(number)) is None
