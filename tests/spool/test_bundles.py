"""Bundles: a directory that is dropped with a job file and input files."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from inprocess import claim, die, live, recover, results, run
from spoolbox import Opener, SpoolBox, until

from runnerd.errors import RunnerdError
from runnerd.model import Reason, State

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]
MEMBER, DEPUTY, GROUP = "nobody", "www-data", "nogroup"


def make(box: SpoolBox, job: str, inputs: Mapping[str, str] | None = None) -> Path:
    """A directory beside the spool, ready to be dropped."""
    bundle = box.scratch / "bundle"
    bundle.mkdir(mode=0o700)
    for name, text in {"job.yaml": job, **(inputs or {})}.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text)
        (bundle / name).chmod(0o600)
    return bundle


def drop(box: SpoolBox, bundle: Path, name: str = "j") -> None:
    bundle.rename(box.path("incoming", name))


def ctl(box: SpoolBox, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--spool", str(box.root), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- what it is for -----------------------------------------------------------------------------


def test_the_files_beside_the_job_file_are_the_first_content_of_work(box: SpoolBox) -> None:
    box.start()
    bundle = make(box, "run: find . | sort; cat a; ./d/run", {"a": "A\n", "d/run": "#!/bin/sh\n"})
    with (bundle / "d/run").open("a") as script:
        script.write("echo ran; mv a b\n")
    (bundle / "d/run").chmod(0o755)
    os.utime(bundle / "a", (1e9, 1e9))
    (bundle / "empty").mkdir()
    drop(box, bundle)
    result = box.result("j")
    assert result.state is State.DONE, result.message
    assert box.output("j") == ".\n./a\n./d\n./d/run\n./empty\nA\nran\n"
    assert result.file == "j/job.yaml"
    filed = box.path("done", "j")
    assert (filed / "work/b").stat().st_mtime == 1e9
    assert sorted(os.listdir(filed / "dropped")) == ["a", "d", "empty", "job.yaml"]
    assert (filed / "job.yaml").read_text() == (filed / "dropped/job.yaml").read_text()


@pytest.mark.parametrize("inner", ["job.yaml", "job.yml", "job.json"])
def test_a_bundle_that_waits_is_seen_and_can_be_taken_back(box: SpoolBox, inner: str) -> None:
    box.start(rescan="0.1s")
    bundle = make(box, "{}")
    (bundle / "job.yaml").rename(bundle / inner)
    (bundle / inner).write_text('{"run": "cat a", "delay": "1h"}')
    (bundle / "a").touch(mode=0o600)
    drop(box, bundle)
    until(lambda: "1 queued" in box.status(), "it does not wait")
    assert [each.id for each in box.api.jobs(State.QUEUED)] == ["j"]
    assert json.loads(ctl(box, "show", "j", "--json").stdout)["state"] == "queued"
    box.path("incoming", "j").rename(box.scratch / "back")
    until(lambda: "0 queued" in box.status(), "it still waits")
    assert (box.scratch / "back/a").exists()


def test_a_waiting_bundle_is_cancelled_and_its_files_are_kept(box: SpoolBox) -> None:
    box.start()
    drop(box, make(box, "run: cat a\ndelay: 1h", {"a": "A"}))
    until(lambda: "1 queued" in box.status(), "it does not wait")
    assert ctl(box, "cancel", "j").returncode == 0
    assert box.result("j").reason is Reason.CANCELLED
    assert box.path("failed", "j", "dropped/a").read_text() == "A"
    assert "run: cat a" in box.path("failed", "j", "job.yaml").read_text()


def test_an_attempt_finds_what_the_one_before_left(box: SpoolBox) -> None:
    box.start()
    job = "run: cat a; echo more >> a; [ $RUNNER_ATTEMPT = 2 ]\nretry: {max: 1, delay: 0}"
    drop(box, make(box, job, {"a": "A\n"}))
    assert box.result("j").state is State.DONE
    assert box.output("j") == "A\nmore\n"


def test_a_bundle_that_has_failed_is_submitted_anew_with_its_inputs(box: SpoolBox) -> None:
    box.start()
    drop(box, make(box, "run: cat a; rm a; exit 1", {"a": "A\n"}))
    assert box.result("j").reason is Reason.EXIT
    assert ctl(box, "retry", "j").returncode == 0
    assert box.result("j.2").reason is Reason.EXIT
    assert box.output("j.2") == "A\n"
    box.control("j.retry")
    box.says("or its inputs were taken by a retry before")
    assert ctl(box, "retry", "j.2").returncode == 0
    assert box.result("j.2.2").reason is Reason.EXIT


def test_a_taken_id_gets_a_number(box: SpoolBox) -> None:
    box.start()
    box.run("j", "run: echo first")
    drop(box, make(box, "run: cat a", {"a": "second"}))
    assert box.result("j.2").state is State.DONE


# --- what is none, or none yet ------------------------------------------------------------------


@pytest.mark.parametrize("name", [".j", "j.tmp", "j.part"])
def test_a_directory_is_left_alone_until_it_has_its_name_and_its_job(
    box: SpoolBox, name: str
) -> None:
    box.start(rescan="0.1s")
    drop(box, make(box, "run: cat a", {"a": ""}), name)
    box.path("incoming", "empty").mkdir()
    box.run("other", "run: echo")
    assert sorted(os.listdir(box.path("incoming"))) == sorted([name, "empty"])
    box.path("incoming", name).rename(box.path("incoming", "j"))
    assert box.result("j").state is State.DONE
    assert os.listdir(box.path("incoming")) == ["empty"]


def test_a_bundle_is_not_taken_while_somebody_writes_an_input(box: SpoolBox) -> None:
    box.start()
    bundle = make(box, "run: cat a", {"a": "half, "})
    with (bundle / "a").open("a") as writer:
        drop(box, bundle)
        box.run("other", "run: echo")
        box.run("another", "run: echo")
        assert box.path("incoming", "j").exists()
        writer.write("whole\n")
    assert box.result("j").state is State.DONE
    assert box.output("j") == "half, whole\n"


@pytest.mark.parametrize(
    ("job", "name", "reason", "said"),
    [
        ("rum: x", "j", Reason.INVALID, "j/job.yaml:1:1: unknown field `rum`"),
        ("run: echo", "no id", Reason.INVALID, "gives no job id"),
        ("run: echo", "j.yaml", Reason.INVALID, "this is a directory"),
        ("run: echo\nuser: nobody-at-all", "j", None, "nobody-at-all"),
    ],
)
def test_a_bundle_with_a_bad_job_file_is_answered(
    box: SpoolBox, job: str, name: str, reason: Reason | None, said: str
) -> None:
    box.start()
    drop(box, make(box, job, {"a": "A"}), name)
    job_id = name.replace(" ", "_").removesuffix(".yaml")
    result = box.result(job_id)
    assert reason is None or result.reason is reason
    assert said in box.output(job_id)
    assert box.path("failed", job_id, "dropped/a").read_text() == "A"


def test_two_job_files_are_one_too_many(box: SpoolBox) -> None:
    box.start()
    drop(box, make(box, "run: echo", {"job.json": "{}"}))
    assert "more than one job file" in box.result("j").message


# --- hostile ones -------------------------------------------------------------------------------


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def hard_link(path: Path) -> None:
    other = path.parent.parent / "other"
    other.touch()
    os.link(other, path)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def writable(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def writable_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def deep(path: Path) -> None:
    (path / "/".join("d" * 60)).mkdir(parents=True)


def many(path: Path) -> None:
    path.mkdir()
    for number in range(20):
        (path / str(number)).touch()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


HOSTILE: Mapping[Callable[[Path], None], str] = {
    link: "this is a symbolic link",
    hard_link: "more than one name",
    fifo: "this is a FIFO",
    unix_socket: "this is a socket",
    writable: "mode 0666",
    writable_directory: "mode 0777",
    deep: "lies deeper than",
    many: "more than 10 input files",
    sparse: "more than 1M together",
}


@pytest.mark.parametrize("below", ["x", "d/x\n\x1b[2J"])
@pytest.mark.parametrize("plant", HOSTILE, ids=lambda plant: plant.__name__)
def test_what_is_no_plain_file_is_refused_with_its_path(
    box: SpoolBox, plant: Callable[[Path], None], below: str
) -> None:
    box.start(inputs="{files: 10, size: 1M}")
    if plant is deep:
        box.stop()
        box.start(inputs="{files: 1000, size: 1M}")
    bundle = make(box, "run: echo ran", {"good": "x"})
    (bundle / below).parent.mkdir(exist_ok=True)
    plant(bundle / below)
    drop(box, bundle)
    result = box.result("j")
    assert (result.reason, result.started_at) == (Reason.INVALID, None)
    assert HOSTILE[plant] in result.message
    assert "\x1b" not in result.message
    assert "\x1b" not in box.output("j")
    assert box.run("other", "run: echo").state is State.DONE


def test_the_job_file_itself_is_no_link(box: SpoolBox) -> None:
    box.start()
    bundle = make(box, "run: echo ran")
    (bundle / "job.yaml").unlink()
    (bundle / "job.yaml").symlink_to("/etc/passwd")
    drop(box, bundle)
    assert "symbolic link" in box.result("j").message
    assert "root:" not in box.output("j")
    assert not box.path("failed", "j", "job.yaml").exists()


def test_a_directory_that_others_may_write_is_refused(box: SpoolBox) -> None:
    box.start()
    bundle = make(box, "run: echo ran")
    bundle.chmod(0o777)
    drop(box, bundle)
    assert "others may write this directory" in box.result("j").message


# --- after the claim ----------------------------------------------------------------------------


def grown(bundle: Path) -> None:
    (bundle / "a").write_text("A and more\n")


def swapped(bundle: Path) -> None:
    (bundle / "a").unlink()
    (bundle / "a").symlink_to("/etc/passwd")


def added(bundle: Path) -> None:
    (bundle / "b").touch(mode=0o600)


def removed(bundle: Path) -> None:
    shutil.rmtree(bundle / "d")


def directory_swapped(bundle: Path) -> None:
    shutil.rmtree(bundle / "d")
    (bundle / "d").symlink_to("/etc")


def written(bundle: Path) -> None:
    (bundle / "a").write_text("B\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (grown, "more than"),
        (swapped, "symbolic link"),
        (added, "more than 3 input files"),
        (removed, None),
        (directory_swapped, "symbolic link"),
        (written, None),
    ],
)
def test_what_changes_after_the_claim_is_refused_or_taken_once(
    box: SpoolBox, open_spool: Opener, change: Callable[[Path], None], said: str | None
) -> None:
    spool = open_spool(box.root)
    drop(box, make(box, "run: cat a", {"a": "A\n", "d/e": ""}))
    claimed = claim(spool, "j")
    change(box.path("running", "j", "job.yaml"))
    with contextlib.closing(claimed):
        run(spool, claimed)
    result = box.result("j")
    if said is None:
        assert result.state is State.DONE
        assert box.output("j") in ("A\n", "B\n")
    else:
        assert (result.reason, result.started_at) == (Reason.INVALID, None)
        assert said in result.message


def test_who_holds_an_input_open_changes_only_what_was_dropped(box: SpoolBox) -> None:
    gate = box.gate()
    box.start()
    bundle = make(box, f"run: read x < {gate}; cat a", {"a": "A\n"})
    with (bundle / "a").open("r") as held:
        drop(box, bundle)
        box.started("j")
        Path(f"/proc/self/fd/{held.fileno()}").write_text("B\n")
    gate.open()
    assert box.result("j").state is State.DONE
    assert box.output("j") == "A\n"


@pytest.mark.parametrize("dies_again", [False, True])
def test_a_bundle_that_dies_anywhere_ends_once_with_all_its_inputs(
    open_spool: Opener, tmp_path: Path, *, dies_again: bool
) -> None:
    """The runner's and the daemon's part in one process that dies before each of its changes."""
    job = 'run: echo ran >> $0.effects; [ "$(cat a d/b)" = AB ]\n'
    for at in itertools.count():
        box_root = tmp_path / str(at)
        open_spool(box_root)
        staged = tmp_path / "staged"
        for name, text in {"job.yaml": job, "a": "A", "d/b": "B"}.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_text(text.replace("$0", str(box_root)))
            (staged / name).chmod(0o600)
        staged.rename(box_root / "incoming/j")
        died = die(box_root, at, lambda spool: live(spool, "j"))
        if dies_again:
            die(box_root, at % 7, recover)
        recover(open_spool(box_root))
        (result,) = results(box_root)
        effects = Path(f"{box_root}.effects")
        runs = effects.read_text().count("ran") if effects.exists() else 0
        assert runs <= 1
        assert result.reason is Reason.INTERRUPTED or (runs == 1 and result.state is State.DONE)
        assert (box_root / "failed/j").exists() or (box_root / "done/j/dropped/d/b").exists()
        if not died:
            break
    assert at > 25


# --- dropping -----------------------------------------------------------------------------------


def test_submit_makes_a_bundle(box: SpoolBox) -> None:
    box.start()
    files = box.scratch / "files"
    (files / "d").mkdir(parents=True)
    (files / "d/e").write_text("E")
    (files / "a").write_text("A")
    (files / "link").symlink_to("a")
    (files / "a").chmod(0o666)
    job = box.scratch / "render.json"
    job.write_text('{"run": "find . -type f | sort | xargs cat"}')
    words = ("--input", files / "d", "--input", files / "link", "--input", files / "a")
    done = ctl(box, "submit", job, *words, "--wait")
    assert done.returncode == 0, done.stderr
    assert box.output("render") == "AEA"
    assert box.result("render").file == "render/job.json"
    assert ctl(box, "submit", job, *words).stdout == "render.2\n"
    assert os.listdir(box.path("incoming")) in ([], ["render.2"])
    box.result("render.2")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["missing"], "missing: No such file or directory"),
        (["a/x", "b/x"], "another input has this name"),
        (["job.yaml"], "no input can have the name"),
        (["dangling"], "dangling"),
    ],
)
def test_submit_says_what_is_wrong_with_an_input(
    box: SpoolBox, inputs: list[str], said: str
) -> None:
    box.start()
    for name in ("a/x", "b/x", "job.yaml"):
        (box.scratch / name).parent.mkdir(exist_ok=True)
        (box.scratch / name).touch()
    (box.scratch / "dangling").mkdir()
    (box.scratch / "dangling/link").symlink_to("nowhere")
    with pytest.raises(RunnerdError, match=said):
        box.api.submit({"run": "echo"}, inputs=[box.scratch / each for each in inputs])
    assert os.listdir(box.path("incoming")) == []


def test_the_template_has_to_want_input_files(box: SpoolBox) -> None:
    for name, more in (("closed", ""), ("open", "inputs: true\n")):
        box.template(name, f"allow: {{}}\n{more}job: {{run: 'ls'}}\n")
    box.start()
    drop(box, make(box, "uses: closed", {"a": ""}), "closed")
    assert box.result("closed").reason is Reason.DENIED
    assert "the template closed takes no input files" in box.result("closed").message
    shutil.rmtree(box.scratch / "bundle", ignore_errors=True)
    drop(box, make(box, "uses: closed"), "bare")
    assert box.result("bare").state is State.DONE
    drop(box, make(box, "uses: open", {"a": ""}), "open")
    assert box.result("open").state is State.DONE
    assert box.output("open") == "a\n"


# --- of many users ------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[SpoolBox]:
    """A daemon of root's whose spool ordinary users can reach."""
    scratch = Path(tempfile.mkdtemp(prefix="runnerd-bundles-"))
    scratch.chmod(0o755)
    box = SpoolBox(scratch)
    yield box
    box.close()
    shutil.rmtree(scratch)


def give(bundle: Path, user: str) -> None:
    account = pwd.getpwnam(user)
    for each in (bundle, *bundle.rglob("*")):
        os.chown(each, account.pw_uid, account.pw_gid, follow_symlinks=False)


@pytest.mark.root
def test_inputs_belong_to_whom_the_job_runs_as(shared: SpoolBox) -> None:
    shared.template(
        "t",
        f"allow: {{groups: [{GROUP}]}}\ninputs: true\njob: {{user: {DEPUTY}, "
        "run: 'id -un; stat -c \"%U %a %n\" . a d d/b; cat a; echo B > d/b'}\n",
    )
    shared.start(group=GROUP)
    bundle = make(shared, "uses: t", {"a": "A\n", "d/b": ""})
    give(bundle, MEMBER)
    drop(shared, bundle)
    assert shared.result("j").state is State.DONE, shared.output("j")
    assert shared.output("j").splitlines() == [
        *(DEPUTY, f"{DEPUTY} 755 .", f"{DEPUTY} 600 a", f"{DEPUTY} 755 d", f"{DEPUTY} 600 d/b"),
        "A",
    ]
    assert shared.path("done", "j", "dropped/d/b").read_text() == ""
    assert shared.path("done", "j", "dropped/d/b").owner() == MEMBER


@pytest.mark.root
@pytest.mark.parametrize("foreign", ["job.yaml", "a", "d", "d/b"])
def test_what_belongs_to_somebody_else_is_neither_read_nor_shown(
    shared: SpoolBox, foreign: str
) -> None:
    shared.start(group=GROUP)
    bundle = make(shared, "run: cat a d/b # hush-hush", {"a": "", "d/b": ""})
    give(bundle, MEMBER)
    os.chown(bundle / foreign, 0, 0)
    drop(shared, bundle)
    result = shared.result("j")
    assert (result.reason, result.submitter) == (Reason.INVALID, MEMBER)
    filed = shared.path("failed", "j")
    if foreign == "job.yaml":
        assert not any(
            "hush-hush" in (filed / each).read_text() for each in (".claim", "result.json")
        )
        assert not (filed / "job.yaml").exists()
    assert not (filed / "work").exists()
    assert (filed / "dropped" / foreign).owner() == "root"


@pytest.mark.root
def test_roots_bundle_is_signed_at_its_job_file(shared: SpoolBox) -> None:
    shared.start(group=GROUP)
    drop(shared, make(shared, "run: id -un", {"a": ""}), "unsigned")
    assert "setfattr" in shared.result("unsigned").message
    job = shared.api.submit({"run": "id -un"}, name="signed", inputs=[shared.config_file])
    assert shared.result(job.id).state is State.DONE
    assert shared.output("signed") == "root\n"
