"""A spool damaged on purpose: fsck finds it, mends it, and no result is lost; the daemon serves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from damages import DAMAGES, Damage, edit
from dying import Died, DyingDisk
from invariant import filed_in, living
from spoolbox import PATIENCE_S, SpoolBox, until

from runnerd import records
from runnerd.damage import NOTES, Fault, Found, is_leftover
from runnerd.disk import Disk
from runnerd.fsck import fsck
from runnerd.model import State
from runnerd.outcome import Result
from runnerd.runner import origin

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]
EACH = pytest.mark.parametrize(
    "damage",
    [
        pytest.param(each, id=each.sentence, marks=[pytest.mark.root] * each.root_only)
        for each in DAMAGES
    ],
)


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool that a daemon has served until both it and a runner were killed."""
    box = SpoolBox(tmp_path_factory.mktemp("lived-in"))
    try:
        box.start(slots=3)
        gate = box.gate()
        box.drop("cut", f"run: echo begun; read x < {gate}")
        box.drop("waits", "run: exit 1\nretry: {max: 3, delay: 1h, max_delay: 1h}")
        box.run("good", "run: echo x; echo made > file; echo key=value >> $RUNNER_OUTPUT")
        box.run("other", "run: echo y")
        box.run("steps", "steps: [{id: a, run: echo a}, {id: b, run: echo b}]")
        box.run("bad", "run: exit 3")
        box.run("refused", "run: echo x\ntimout: 5\n")
        box.started("cut")
        until(box.path("running", "waits", "output.1.log").exists, "no attempt was put away")
        box.kill()
        left = living(box.root)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, PATIENCE_S)
    finally:
        box.close()
    return box.root


@pytest.fixture
def box(tmp_path: Path, lived_in: Path) -> Iterator[SpoolBox]:
    """A copy of that spool."""
    copy(lived_in, tmp_path / "spool")
    spool_box = SpoolBox(tmp_path)
    yield spool_box
    spool_box.close()


def copy(spool: Path, target: Path) -> None:
    """With FIFOs, times, owners and access lists."""
    subprocess.run(["cp", "-a", spool, target], check=True)


def ctl(box: SpoolBox, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--spool", str(box.root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(root: Path, *, repair: bool = False, disk: Disk | None = None) -> list[Found]:
    return fsck(root, origin(), repair=repair, disk=disk)


def faults(found: list[Found]) -> list[Found]:
    return [each for each in found if each.fault not in NOTES]


def walk(root: Path) -> Iterator[Path]:
    yield root
    for above, directories, files in os.walk(root):
        yield from (Path(above, each) for each in (*directories, *files))


def snapshot(root: Path) -> dict[Path, tuple[object, ...]]:
    """All that can be seen of a tree."""
    seen: dict[Path, tuple[object, ...]] = {}
    for path in walk(root):
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        seen[path] = (status.st_mode, status.st_uid, status.st_ino, status.st_mtime_ns, content)
    return seen


def contents(root: Path) -> set[bytes]:
    """What the files hold that could be of worth to somebody, wherever they lie."""
    return {
        path.read_bytes()
        for path in walk(root)
        if path.is_file() and not path.is_symlink() and not is_leftover(path.name)
    }


def results(root: Path) -> set[bytes]:
    """The results that are whole, byte for byte."""
    found = set()
    for path in walk(root):
        if path.name.startswith("result.json") and stat.S_ISREG(path.lstat().st_mode):
            with contextlib.suppress(ValueError, RecursionError):
                records.loads(Result, path.read_bytes())
                found.add(path.read_bytes())
    return found


def assert_sound(root: Path) -> None:
    """Nothing is wrong with what is filed, but for claims that cannot be had again."""
    _, wrong = filed_in(root)
    assert [each for each in wrong if not each.endswith(".claim is missing")] == []


def assert_serves(box: SpoolBox) -> None:
    """A daemon starts, runs a new job, and settles what was left in running/."""
    box.start()
    box.api.submit({"run": "echo new"}, name="new")
    assert box.result("new").state is State.DONE
    box.stop()


def die(root: Path, at: int) -> bool:
    """Repair in a process that dies before its at-th change; whether it died."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check(root, repair=True, disk=DyingDisk(at))
            status = 0
        except Died:
            status = 7
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 7)
    return status == 7


# --- each damage --------------------------------------------------------------------------------


def test_a_sound_spool_has_no_faults(box: SpoolBox) -> None:
    before = snapshot(box.root)
    done = ctl(box, "fsck")
    assert done.returncode == 0, done.stdout
    assert "nothing is wrong" in done.stdout
    assert "running/waits: it waits for its next attempt" in done.stdout
    assert "running/cut: it was interrupted" in done.stdout
    assert faults(check(box.root, repair=True)) == []
    assert snapshot(box.root) == before


@EACH
def test_a_damage_is_named_and_nothing_is_changed(box: SpoolBox, damage: Damage) -> None:
    damage.do(box.root)
    before = snapshot(box.root)
    done = ctl(box, "fsck", "--json")
    assert done.returncode == (0 if damage.fault is None else 1), done.stdout + done.stderr
    found = {(each["path"], each["fault"]) for each in json.loads(done.stdout)}
    assert (damage.place, damage.fault or "no-claim") in found, done.stdout
    assert snapshot(box.root) == before


@EACH
def test_a_damage_is_mended_and_nothing_is_lost(box: SpoolBox, damage: Damage) -> None:
    damage.do(box.root)
    kept, whole = contents(box.root), results(box.root)
    mended = check(box.root, repair=True)
    assert not [each for each in mended if each.is_open]
    assert bool(faults(mended)) is (damage.fault is not None)
    assert faults(check(box.root)) == []
    assert_sound(box.root)
    assert whole <= results(box.root)
    assert kept - contents(box.root) <= {b""}


@pytest.mark.heavy
@EACH
def test_a_damaged_spool_is_served(box: SpoolBox, damage: Damage) -> None:
    damage.do(box.root)
    whole = results(box.root)
    if damage.refused:
        done = subprocess.run(box.program, capture_output=True, text=True, check=False)
        assert done.returncode == 78
        assert "Traceback" not in done.stderr
        return
    assert_serves(box)
    assert "Traceback" not in box.log.read_text()
    assert "no new jobs are taken" not in box.log.read_text()
    assert whole <= results(box.root)


@pytest.mark.heavy
@EACH
def test_a_mended_spool_is_served(box: SpoolBox, damage: Damage) -> None:
    damage.do(box.root)
    whole = results(box.root)
    done = ctl(box, "fsck", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    again = ctl(box, "fsck")
    assert again.returncode == 0, again.stdout
    assert "nothing is wrong" in again.stdout
    assert_serves(box)
    assert_sound(box.root)
    assert whole <= results(box.root)


@pytest.mark.heavy
@EACH
def test_a_repair_that_dies_anywhere_is_finished_by_the_next(
    tmp_path: Path, lived_in: Path, damage: Damage
) -> None:
    for at in itertools.count():
        root = tmp_path / f"spool{at}"
        copy(lived_in, root)
        damage.do(root)
        kept, whole = contents(root), results(root)
        died = die(root, at)
        assert not [each for each in check(root, repair=True) if each.is_open]
        assert faults(check(root)) == [], f"died before change {at}"
        assert_sound(root)
        assert whole <= results(root), f"died before change {at}"
        assert kept - contents(root) <= {b""}, f"died before change {at}"
        shutil.rmtree(root)
        if not died:
            break


# --- what fsck does not do ----------------------------------------------------------------------


def test_a_served_spool_is_left_alone(box: SpoolBox) -> None:
    box.start()
    assert box.daemon is not None
    box.path("done").chmod(0o777)
    for words in (["fsck"], ["fsck", "--repair"]):
        done = ctl(box, *words)
        assert done.returncode == 1
        assert f"is served by another runnerd (pid {box.daemon.pid})" in done.stderr
    assert stat.S_IMODE(box.path("done").stat().st_mode) == 0o777


def test_a_living_runner_is_left_alone(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    box.drop("alive", f"run: read x < {gate}; echo through")
    box.started("alive")
    box.kill()
    before = snapshot(box.path("running", "alive"))
    done = ctl(box, "fsck", "--repair")
    assert done.returncode == 0
    assert "running/alive: it runs" in done.stdout
    assert snapshot(box.path("running", "alive")) == before
    gate.open()
    assert box.result("alive").state is State.DONE
    assert box.output("alive") == "through\n"


def test_a_job_that_its_runner_is_just_filing_is_left_alone(box: SpoolBox) -> None:
    box.path("done", "good").chmod(0o777)
    with box.path("done", "good", ".claim").open("r+") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        found = {each.path: each.fault for each in check(box.root, repair=True)}
        assert found["done/good"] is Fault.RUNNING
        assert stat.S_IMODE(box.path("done", "good").stat().st_mode) == 0o777
    assert faults(check(box.root, repair=True))[0].mended


@pytest.mark.heavy
@EACH
def test_a_damaged_spool_can_be_listed(box: SpoolBox, damage: Damage) -> None:
    damage.do(box.root)
    if not {"done", "failed", "running"} <= set(os.listdir(box.root)):
        return
    done = ctl(box, "list")
    assert "Traceback" not in done.stderr
    assert damage.refused or "refused" in done.stdout, done.stderr


def test_what_others_began_to_drop_is_told_and_stays(box: SpoolBox) -> None:
    for name in (".old.yaml.1234.tmp", ".new.yaml.1234.tmp"):
        box.path("incoming", name).write_text("run: x")
    os.utime(box.path("incoming", ".old.yaml.1234.tmp"), (0, 0))
    box.path("incoming", "bad name.yaml").write_text("run: x")
    found = {each.path for each in check(box.root, repair=True)}
    assert {each for each in found if each.startswith("incoming")} == {
        "incoming/.old.yaml.1234.tmp"
    }
    assert len(os.listdir(box.path("incoming"))) == 3


def test_unknown_names_are_told_and_stay(box: SpoolBox) -> None:
    box.path("notes.txt").write_text("mine")
    box.path(".job.retry.yaml").write_text("run: x")
    found = {each.path: each for each in check(box.root, repair=True)}
    assert found["notes.txt"].fault is Fault.UNKNOWN
    assert found[".job.retry.yaml"].fault is Fault.PENDING
    assert box.path("notes.txt").read_text() == "mine"


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_where_there_is_no_spool_it_says_so(box: SpoolBox, what: str) -> None:
    shutil.rmtree(box.root)
    if what == "a file":
        box.root.write_text("")
    done = ctl(box, "fsck", "--repair")
    assert done.returncode == 1
    assert done.stderr.startswith(f"runnerctl: {box.root}: there is no spool here: ")
    assert not box.root.is_dir()


@pytest.mark.root
def test_root_takes_no_spool_of_another_user_over(box: SpoolBox) -> None:
    for path in walk(box.root):
        os.lchown(path, 65534, 65534)
    before = snapshot(box.root)
    done = ctl(box, "fsck", "--repair")
    assert done.returncode == 1
    assert "belongs to uid 65534; run fsck as that user" in done.stderr
    assert snapshot(box.root) == before


def test_what_cannot_be_mended_is_told_with_the_reason(box: SpoolBox) -> None:
    """A full or read-only disk, a mount: here a disk that takes nothing."""

    class Full(Disk):
        def move(self, name: str, target: str, *, at: int, to: int) -> None:  # noqa: ARG002
            raise OSError(errno.EROFS, "Read-only file system")

    box.path("done", "good", "result.json").write_text("{")
    box.path("failed", "bad").rename(box.path("done", "bad"))
    before = snapshot(box.root)
    found = faults(check(box.root, repair=True, disk=Full()))
    assert [(each.path, each.mended) for each in found] == [
        ("done/bad", False),
        ("done/good/result.json", False),
    ]
    assert all("could not be mended: Read-only file system" in each.message for each in found)
    assert snapshot(box.root) == before


# --- what it says -------------------------------------------------------------------------------


def result_at(directory: Path) -> dict[str, object]:
    result = json.loads((directory / "result.json").read_bytes())
    assert isinstance(result, dict)
    return result


def test_a_job_whose_result_is_lost_is_filed_by_its_claim(box: SpoolBox) -> None:
    was = result_at(box.path("done", "good"))
    box.path("done", "good", "result.json").write_text("{")
    check(box.root, repair=True)
    result = result_at(box.path("failed", "good"))
    assert (result["state"], result["reason"]) == ("failed", "interrupted")
    assert result["message"] == (
        "the result of the job was damaged, and is kept as result.json.damaged; "
        "how the job ended is not known"
    )
    for field in ("id", "file", "submitter", "user", "executor", "submitted_at"):
        assert result[field] == was[field]
    assert box.path("failed", "good", "result.json.damaged").read_text() == "{"
    assert box.path("failed", "good", "work", "file").read_text() == "made\n"
    assert not box.path("done", "good").exists()


def test_the_answer_to_a_refused_file_comes_back(box: SpoolBox) -> None:
    was = result_at(box.path("failed", "refused"))
    box.path("failed", "refused", "result.json").unlink()
    check(box.root, repair=True)
    result = result_at(box.path("failed", "refused"))
    assert {**result, "finished_at": 0} == {**was, "finished_at": 0}


def test_a_result_of_a_newer_runnerd_keeps_what_this_one_does_not_know(box: SpoolBox) -> None:
    edit(box.path("done", "good", "result.json"), schema=2, weather="fine")
    copy(box.path("done", "good"), box.path("done", "better"))
    check(box.root, repair=True)
    original = box.path("done", "better", "result.json.original")
    assert original.read_bytes() == box.path("done", "good", "result.json").read_bytes()
    assert result_at(box.path("done", "better")) == {
        **result_at(box.path("done", "good")),
        "id": "better",
    }


def test_each_finding_is_one_line_whatever_its_name(box: SpoolBox) -> None:
    box.path("done", os.fsdecode(b"a\nb\x1b \xff")).write_text("")
    remedy = "move it into a directory of its own in failed/, with a result that says so"
    lines = ctl(box, "fsck").stdout.splitlines()
    assert [each for each in lines if not each.startswith("running/")] == [
        f"done/a\\x0ab\\x1b \\udcff: this is no directory, and so no job (remedy: {remedy})",
        "faults: 1",
    ]
    assert ctl(box, "fsck", "--repair").stdout.splitlines()[-1] == "faults: 1, 1 mended"


def test_many_damages_are_mended_at_once(box: SpoolBox) -> None:
    for each in DAMAGES:
        if each.sentence in MANY:
            each.do(box.root)
    whole = results(box.root)
    before = faults(check(box.root))
    assert len({each.path for each in before}) >= len(MANY)
    assert not [each for each in check(box.root, repair=True) if each.is_open]
    assert faults(check(box.root)) == []
    assert_sound(box.root)
    assert whole <= results(box.root)


MANY = {
    "a file in running/",
    "a filed job is back in running/",
    "a failed job in done/",
    "a filed job was copied",
    "a result is full of zeros",
    "the answer to a bad file is torn",
    "a log is a directory",
    ".paused is a directory",
    "done/ is open to all",
}


# --- an ordinary user ---------------------------------------------------------------------------


@pytest.fixture
def users_root(lived_in: Path) -> Iterator[Path]:
    """A copy of the spool that belongs to an ordinary user, and that this user can reach."""
    scratch = Path(tempfile.mkdtemp(prefix="runnerd-fsck-"))
    copy(lived_in, scratch / "spool")
    if os.geteuid() == 0:
        scratch.chmod(0o755)
        for path in walk(scratch / "spool"):
            os.lchown(path, 65534, 65534)
    yield scratch / "spool"
    shutil.rmtree(scratch)


def as_user(do: Callable[[], None]) -> None:
    """Do it in a process of an ordinary user; what it asserts must hold."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
            do()
            status = 0
        except BaseException:  # noqa: BLE001  # told by pytest's capture of standard error
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def shut(root: Path, *names: str) -> None:
    for name in names:
        (root / name).chmod(0)


@pytest.mark.parametrize(
    "names",
    [
        ["failed/bad"],
        ["running/cut"],
        ["running/waits/.claim"],
        ["done/good/result.json", "done/good/.claim"],
        ["running/cut/.claim", "running/cut"],
        ["outbox"],
        ["done"],
    ],
)
def test_what_an_ordinary_user_is_shut_out_from_is_opened(
    users_root: Path, names: list[str]
) -> None:
    whole = results(users_root)
    shut(users_root, *names)

    def mend() -> None:
        assert {each.fault for each in faults(check(users_root))} == {Fault.MODE}
        assert not [each for each in check(users_root, repair=True) if each.is_open]
        assert faults(check(users_root)) == []

    as_user(mend)
    assert_sound(users_root)
    assert results(users_root) == whole


@EACH
def test_an_ordinary_user_mends_a_spool_of_its_own(users_root: Path, damage: Damage) -> None:
    if damage.root_only:
        return
    as_user(lambda: damage.do(users_root))
    whole = results(users_root)

    def mend() -> None:
        assert not [each for each in check(users_root, repair=True) if each.is_open]
        assert faults(check(users_root)) == []

    as_user(mend)
    assert_sound(users_root)
    assert whole <= results(users_root)


@pytest.mark.root
def test_what_belongs_to_somebody_else_is_told_to_an_ordinary_user(users_root: Path) -> None:
    os.chown(users_root / "done" / "good", 0, 0)

    def look() -> None:
        (found,) = faults(check(users_root, repair=True))
        assert (found.path, found.fault, found.is_open) == ("done/good", Fault.OWNER, True)
        assert "could not be mended" in found.message

    as_user(look)
