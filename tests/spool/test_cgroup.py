"""Cgroups of jobs, in a real cgroup v2. What needs a controller is skipped where there is none.

All of it runs as root on a machine with cgroup v2 and nothing else (any booted Debian): there
systemd lends the controllers. Elsewhere some tests are skipped, each with its reason.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import pwd
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from spoolbox import PATIENCE_S, until

from runnerd import cgroup
from runnerd.cgroup import Leaf, Tree
from runnerd.errors import NotStartable
from runnerd.limits import SET_AGAIN_S, Fences
from runnerd.model import IoShare, Limits
from runnerd.outcome import Exited, Outcome, Signalled, Usage
from runnerd.processes import DAEMON, SUPERVISOR

pytestmark = pytest.mark.heavy

T = TypeVar("T")
MIB = 1 << 20
NOTHING = Usage(
    cpu_user_s=0.0, cpu_system_s=0.0, max_memory_bytes=None, read_bytes=0, write_bytes=0
)


def mount_point() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(mount.split()[4])
    pytest.skip("no cgroup v2 is mounted")


def own_cgroup() -> Path:
    line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
    return mount_point() / line.removeprefix("0::/")


@pytest.fixture
def ground(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty cgroup that we may divide, as systemd delegates one."""
    name = f"runnerd-test-{os.getpid()}{getattr(request, 'param', '')}"
    for above in (mount_point(), own_cgroup()):
        directory = above / name
        try:
            directory.mkdir()
        except OSError:
            continue
        try:
            (directory / "cgroup.procs").write_bytes(b"")
            yield directory
        finally:
            clear(directory)
        return
    pytest.skip("this user may not make a cgroup here")


def clear(directory: Path) -> None:
    (directory / "cgroup.kill").write_text("1")
    until(lambda: not populated(directory), f"{directory} does not get empty")
    for parent, names, _ in os.walk(directory, topdown=False):
        for name in names:
            Path(parent, name).rmdir()
    directory.rmdir()


def populated(directory: Path) -> bool:
    return "populated 1" in (directory / "cgroup.events").read_text()


def inside(directory: Path, work: Callable[[], T], uid: int | None = None) -> T:
    """What `work` returns when a process of its own does it in that cgroup."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            (directory / "cgroup.procs").write_text("0")
            if uid is not None:
                os.setresuid(uid, uid, uid)
            os.write(write_end, pickle.dumps(work()))
            status = 0
        except BaseException:  # noqa: BLE001  # it must not get into the tests' own way
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "it did not get to its end"
    result: T = pickle.loads(told)  # noqa: S301  # our own child wrote it
    return result


def here() -> str:
    """The last part of the name of the cgroup that this process is in."""
    return Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition("/")[2]


def groups(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir() if each.is_dir()}


@pytest.fixture
def sleeper() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    started = []

    def start(directory: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "1000"])
        started.append(process)
        (directory / "cgroup.procs").write_text(str(process.pid))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


Sleeper = Callable[[Path], subprocess.Popen[bytes]]


# --- what the daemon takes ----------------------------------------------------------------------


def test_the_daemon_moves_out_of_the_way(ground: Path) -> None:
    offered = (ground / "cgroup.controllers").read_text().split()

    def daemon() -> tuple[Tree | None, str, str]:
        return *cgroup.delegated_tree(), here()

    tree, said, leaf = inside(ground, daemon)
    assert tree is not None
    assert tree.path == str(ground)
    assert tree.controllers == set(offered) & {"cpu", "memory", "pids", "io"}
    assert not tree.fleeting
    assert said.startswith(f"each job gets a cgroup of its own below {ground}, with ")
    assert leaf == DAEMON


@pytest.mark.parametrize("leaf", [DAEMON, SUPERVISOR])
def test_a_daemon_that_is_in_a_leaf_already_stays_there(ground: Path, leaf: str) -> None:
    (ground / leaf).mkdir()

    def daemon() -> tuple[Tree | None, str, str]:
        return *cgroup.delegated_tree(), here()

    tree, said, where = inside(ground / leaf, daemon)
    assert tree is not None, said
    assert (tree.path, where, groups(ground)) == (str(ground), leaf, {leaf})


def test_a_daemon_after_another_finds_its_place(ground: Path, sleeper: Sleeper) -> None:
    assert inside(ground, cgroup.delegated_tree)[0] is not None
    runner = sleeper(ground / DAEMON)
    (ground / "cgroup.subtree_control").write_text(
        " ".join(f"-{each}" for each in (ground / "cgroup.subtree_control").read_text().split())
    )
    assert inside(ground, cgroup.delegated_tree)[0] is not None
    assert runner.poll() is None


def test_a_cgroup_with_a_stranger_in_it_is_left_alone(ground: Path, sleeper: Sleeper) -> None:
    stranger = sleeper(ground)
    tree, said = inside(ground, cgroup.delegated_tree)
    assert tree is None
    assert said.endswith(f"{ground} has other processes or cgroups in it")
    assert groups(ground) == set()
    assert (ground / "cgroup.procs").read_text().split() == [str(stranger.pid)]


def test_a_cgroup_with_a_strange_one_below_is_left_alone(ground: Path) -> None:
    (ground / "strange").mkdir()
    assert inside(ground, cgroup.delegated_tree)[0] is None
    assert groups(ground) == {"strange"}


@pytest.mark.root
def test_the_root_cgroup_is_left_alone() -> None:
    root = mount_point()
    if (root / "cgroup.events").exists():
        pytest.skip("the root cgroup is not to be seen from here")
    before = (root / "cgroup.subtree_control").read_text()
    tree, said = inside(root, cgroup.delegated_tree)
    assert tree is None
    assert said.endswith("the daemon runs in the root cgroup")
    assert not groups(root) & {DAEMON, SUPERVISOR}
    assert (root / "cgroup.subtree_control").read_text() == before


NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.mark.root
def test_an_ordinary_user_needs_a_cgroup_that_is_theirs(ground: Path) -> None:
    tree, said = inside(ground, cgroup.delegated_tree, uid=NOBODY)
    assert tree is None
    assert "Permission denied" in said
    assert groups(ground) == set()


@pytest.mark.root
def test_what_was_begun_and_failed_is_undone(ground: Path) -> None:
    for name in ("", "cgroup.procs"):  # but not cgroup.subtree_control
        os.chown(ground / name, NOBODY, -1)

    def daemon() -> tuple[Tree | None, str, str]:
        return *cgroup.delegated_tree(), here()

    tree, said, where = inside(ground, daemon, uid=NOBODY)
    assert tree is None
    assert "Permission denied: 'cgroup.subtree_control'" in said
    assert where == ground.name
    assert groups(ground) == set()


@pytest.mark.root
def test_an_ordinary_user_divides_what_is_theirs(ground: Path) -> None:
    for name in ("", "cgroup.procs", "cgroup.subtree_control"):
        os.chown(ground / name, NOBODY, -1)

    def daemon() -> str:
        with job_in(ground, None, "cat", "/proc/self/cgroup") as job:
            return job.output()

    assert inside(ground, daemon, uid=NOBODY).endswith("/job-j\n")


@pytest.mark.root
@pytest.mark.parametrize("ground", [".service"], indirect=True)
def test_what_systemd_did_not_delegate_is_left_alone(ground: Path) -> None:
    tree, said = inside(ground, cgroup.delegated_tree)
    assert tree is None
    assert said.endswith(f"{ground} is not delegated (systemd: Delegate=yes)")
    assert groups(ground) == set()


@pytest.mark.root
@pytest.mark.parametrize("ground", [".service"], indirect=True)
def test_a_unit_that_could_not_start_again_gets_no_controllers(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cgroup.SWITCHES_OFF, raising=False)
    os.setxattr(ground, "user.delegate", b"1")
    tree, said = inside(ground, cgroup.delegated_tree)
    assert tree is not None, said
    assert tree.fleeting
    assert not tree.controllers
    assert "the unit needs DelegateSubgroup=supervisor" in said
    assert not (ground / "cgroup.subtree_control").read_text().strip()


# --- a job in its leaf --------------------------------------------------------------------------


class Job:
    """A program in a leaf; only in a process that took the tree."""

    def __init__(self, tree: Tree, limits: Limits | None, argv: tuple[str, ...]) -> None:
        self.tree = tree
        self.fences = Fences.around(limits, tree, "j")
        self.leaf = Path(tree.path, "job-j")
        self.process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=self.fences.enter,  # noqa: PLW1509  # one thread; this is what is tested
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def output(self) -> str:
        return self.process.communicate(timeout=PATIENCE_S * 5)[0].decode()

    def outcome(self) -> Outcome:
        self.output()
        code = self.process.returncode
        return Exited(code) if code >= 0 else Signalled(-code)

    def explained(self) -> tuple[str | None, Usage]:
        outcome = self.outcome()
        return self.fences.explain(outcome), self.fences.usage(NOTHING)


@contextlib.contextmanager
def job_in(ground: Path, limits: Limits | None, *argv: str) -> Iterator[Job]:
    """A daemon takes the ground, and a job starts in it."""
    tree, said = cgroup.delegated_tree()
    assert tree is not None, said
    assert tree.path == str(ground)
    job = Job(tree, limits, argv)
    try:
        yield job
    finally:
        job.fences.close()
        job.process.communicate()


def script(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-ISc", text)


def test_a_program_is_in_its_leaf_from_the_start(ground: Path) -> None:
    def daemon() -> tuple[str, bool]:
        with job_in(ground, None, "cat", "/proc/self/cgroup") as job:
            return job.output(), job.fences.needs_fork

    shown, needs_fork = inside(ground, daemon)
    assert shown.endswith("/job-j\n")
    assert needs_fork
    assert groups(ground) == {DAEMON}


def test_a_kill_leaves_nothing(ground: Path) -> None:
    away = script("setsid sleep 1000 & (setsid sleep 1001 &) & echo started; sleep 1002")

    def daemon() -> tuple[Outcome, bool]:
        with job_in(ground, None, *away) as job:
            job.line()
            job.fences.kill()
            outcome = job.outcome()
            until(lambda: not populated(job.leaf), "something survived")
            return outcome, populated(job.leaf)

    assert inside(ground, daemon) == (Signalled(9), False)


def test_a_kernel_without_a_kill_for_cgroups_leaves_nothing(ground: Path) -> None:
    def daemon() -> bool:
        with job_in(ground, None, *script("setsid sleep 1000 & echo started; sleep 1001")) as job:
            job.line()
            (job.leaf / "of-the-job").mkdir()
            (job.leaf / "of-the-job/cgroup.procs").write_text(str(job.process.pid))
            fd = os.open(job.leaf, os.O_RDONLY)
            cgroup._kill_each(fd)  # noqa: SLF001  # no kernel of today would go there
            os.close(fd)
            return populated(job.leaf)

    assert inside(ground, daemon) is False


def test_a_leaf_is_removed_with_all_that_is_in_it(ground: Path) -> None:
    def daemon() -> set[str]:
        with job_in(ground, None, *script("sleep 1000 & echo started; sleep 1001")) as job:
            job.line()
            (job.leaf / "a/b").mkdir(parents=True)
            (job.leaf / "a/b/cgroup.procs").write_text(str(job.process.pid))
        return groups(ground)

    assert inside(ground, daemon) == {DAEMON}


def test_what_is_left_in_an_old_leaf_is_killed(ground: Path, sleeper: Sleeper) -> None:
    (ground / "job-j").mkdir()
    left = sleeper(ground / "job-j")

    def daemon() -> str:
        with job_in(ground, None, "cat", "/proc/self/cgroup") as job:
            return job.output()

    assert inside(ground, daemon).endswith("/job-j\n")
    assert left.wait() == -9


def test_empty_leaves_are_removed_and_others_are_not(ground: Path, sleeper: Sleeper) -> None:
    for name in ("job-empty", "job-lives", "other"):
        (ground / name).mkdir()
    (ground / "job-empty/below").mkdir()
    (ground / "job-lives/below").mkdir()
    runs = sleeper(ground / "job-lives")
    fd = os.open(ground, os.O_RDONLY)
    tree = Tree(fd, str(ground), frozenset(), fleeting=False)
    starts = Leaf.make(tree, "starts")  # a runner of the daemon before has it open
    cgroup.remove_leftovers(tree)
    assert groups(ground) == {"job-lives", "job-starts", "other"}
    assert groups(ground / "job-lives") == {"below"}
    assert runs.poll() is None
    starts.close()
    cgroup.remove_leftovers(tree)
    assert groups(ground) == {"job-lives", "other"}
    os.close(fd)


def test_cpu_time_is_counted_even_of_children_that_nobody_buried(ground: Path) -> None:
    ignored = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0:\n"
        "        while time.process_time() < 0.3: pass\n"
        "        os._exit(0)\n"
        "try: os.wait()\n"
        "except ChildProcessError: pass\n"
    )

    def daemon() -> tuple[str | None, Usage]:
        with job_in(ground, Limits(cpu_time_s=0.5), *python(ignored)) as job:
            job.output()
            return job.fences.look(), job.fences.usage(NOTHING)

    said, used = inside(ground, daemon)
    assert said == "the job used more CPU time than its limit of 0.5s"
    assert used.cpu_user_s + used.cpu_system_s >= 0.6


def test_a_tree_that_is_gone_does_not_stop_a_job(ground: Path) -> None:
    (ground / "gone").mkdir()
    fd = os.open(ground / "gone", os.O_RDONLY)
    (ground / "gone").rmdir()
    tree = Tree(fd, str(ground / "gone"), frozenset({"memory", "cpu"}), fleeting=False)
    fences = Fences.around(Limits(memory_bytes=MIB), tree, "j")
    assert fences.look_every_s is not None
    assert "No such file" in (fences.without_leaf or "")
    with pytest.raises(NotStartable, match="cpu: 50% cannot be held here"):
        Fences.around(Limits(cpu=0.5), tree, "j")
    os.close(fd)


def test_a_limit_without_its_controller_is_watched(ground: Path) -> None:
    fd = os.open(ground, os.O_RDONLY)  # nothing is enabled below it
    tree = Tree(fd, str(ground), frozenset(), fleeting=False)
    fences = Fences.around(Limits(memory_bytes=MIB, processes=5), tree, "j")
    assert fences.look_every_s is not None
    fences.close()
    with pytest.raises(NotStartable, match="its cgroup has no controller cpu"):
        Fences.around(Limits(cpu=0.5), tree, "j")
    assert groups(ground) == set()
    os.close(fd)


# --- what the controllers hold ------------------------------------------------------------------


@pytest.fixture
def controlled(ground: Path) -> Path:
    """Ground with controllers."""
    missing = {"cpu", "memory", "pids"} - set((ground / "cgroup.controllers").read_text().split())
    if missing:
        pytest.skip(f"the cgroup v2 here has no {', '.join(sorted(missing))}")
    return ground


EATER = "import signal\neaten = bytearray({mib} << 20)\nprint('eaten', flush=True)\n"


def test_memory_is_held_for_all_of_the_job(controlled: Path) -> None:
    eater = shlex.join(python(f"{EATER.format(mib=40)}signal.pause()"))
    two = script(f"{eater} & {eater} & wait; sleep 1000")

    def daemon() -> tuple[str | None, Usage, float | None]:
        with job_in(controlled, Limits(memory_bytes=64 * MIB), *two) as job:
            return *job.explained(), job.fences.look_every_s

    said, used, look_every_s = inside(controlled, daemon)
    assert said == "the job used more memory than its limit of 64M"
    assert look_every_s is None
    assert used.max_memory_bytes is None or 60 * MIB < used.max_memory_bytes <= 64 * MIB


def test_a_full_machine_is_not_the_jobs_fault(controlled: Path) -> None:
    (controlled / "memory.max").write_text(str(64 * MIB))

    def daemon() -> tuple[Outcome, str | None]:
        eater = python(EATER.format(mib=200))
        with job_in(controlled, Limits(memory_bytes=1 << 30), *eater) as job:
            outcome = job.outcome()
            return outcome, job.fences.explain(outcome)

    assert inside(controlled, daemon) == (Signalled(9), None)


def test_processes_are_held(controlled: Path) -> None:
    fork = (
        "import os, signal\n"
        "for count in range(30):\n"
        "    if os.fork() == 0: signal.pause()\n"
        "    print(count + 2, flush=True)\n"
    )

    def daemon() -> tuple[str, str | None]:
        with job_in(controlled, Limits(processes=10), *python(fork)) as job:
            shown = [job.line() for _ in range(9)]
            job.process.wait()
            return shown[-1], job.fences.explain(Exited(job.process.returncode))

    assert inside(controlled, daemon) == (
        "10",
        "the job failed after it had reached its limit of 10 processes",
    )


def test_a_share_of_the_cpus_is_held(controlled: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass\n"

    def daemon() -> tuple[str, dict[str, str]]:
        with job_in(controlled, Limits(cpu=0.2, nice=19), *python(burn)) as job:
            assert job.outcome() == Exited(0)
            words = (job.leaf / "cpu.stat").read_text().split()
            weight = (job.leaf / "cpu.weight.nice").read_text()
            return weight.strip(), dict(zip(words[::2], words[1::2], strict=True))

    weight, counted = inside(controlled, daemon)
    assert weight == "19"
    assert int(counted["nr_throttled"]) > 0
    # It cannot have had more than a fifth of the periods that it took.
    assert int(counted["nr_periods"]) * 0.1 * 0.2 >= int(counted["usage_usec"]) / 1e6 - 0.1


def test_io_is_counted_and_weighed(controlled: Path, tmp_path: Path) -> None:
    if "io" not in (controlled / "cgroup.controllers").read_text().split():
        pytest.skip("the cgroup v2 here has no io")
    if os.major(tmp_path.stat().st_dev) == 0:
        pytest.skip("the temporary directory is on no disk of its own")
    write = f"dd if=/dev/zero of={tmp_path}/file bs=1M count=8 oflag=direct 2>&1"

    def daemon() -> tuple[Outcome, Usage, str]:
        with job_in(controlled, Limits(io=IoShare.LOW), *script(write)) as job:
            weight = job.leaf / "io.weight"
            shown = weight.read_text() if weight.exists() else ""
            return job.outcome(), job.fences.usage(NOTHING), shown

    outcome, used, weight = inside(controlled, daemon)
    if outcome != Exited(0):
        pytest.skip("the file system here does not write directly")
    assert used.write_bytes >= 8 * MIB
    assert weight in ("", "default 50\n")


@pytest.mark.root
@pytest.mark.parametrize("ground", [".service"], indirect=True)
def test_what_was_lost_while_there_was_no_daemon_is_set_again(
    controlled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cgroup.SWITCHES_OFF, "1")
    os.setxattr(controlled, "user.delegate", b"1")
    control = controlled / "cgroup.subtree_control"
    limits = Limits(memory_bytes=64 * MIB, processes=10, cpu=0.5)

    def daemon() -> list[object]:
        seen: list[object] = []
        with job_in(controlled, limits, *script("echo started; sleep 1000")) as job:
            job.line()
            seen.append(job.fences.look_every_s)
            control.write_text("-cpu -memory -pids -io")
            assert job.fences.look() is None
            seen.append((job.leaf / "memory.max").exists())
            seen.append((job.fences.look_every_s or 0) < SET_AGAIN_S)
            control.write_text("+cpu +memory +pids")
            seen.append((job.leaf / "memory.max").read_text())
            assert job.fences.look() is None
            seen.append(job.fences.look_every_s)
            seen += [(job.leaf / each).read_text() for each in ("memory.max", "pids.max")]
            seen.append((job.leaf / "cpu.max").read_text())
        return seen

    assert inside(controlled, daemon) == [
        *(SET_AGAIN_S, False, True, "max\n", SET_AGAIN_S),
        *(f"{64 * MIB}\n", "10\n", "50000 100000\n"),
    ]
