"""Artifacts: what is kept of a job's work, and what a hostile job makes of that."""

from __future__ import annotations

import glob
import hashlib
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spoolbox import SpoolBox, until

from runnerd.artifacts import Collected, collect
from runnerd.disk import Disk
from runnerd.model import Account, Artifact, Limits, Reason, State, When
from runnerd.outcome import Result

MEMBER = "nobody"


def account_of(name: str) -> Account:
    found = pwd.getpwnam(name)
    return Account(
        uid=found.pw_uid,
        gid=found.pw_gid,
        groups=(found.pw_gid,),
        name=name,
        home=found.pw_dir,
        shell=found.pw_shell,
    )


OURSELVES = account_of(pwd.getpwuid(os.geteuid()).pw_name)


def kept(
    root: Path,
    *patterns: str,
    account: Account = OURSELVES,
    limits: Limits | None = None,
) -> Collected:
    """Collect from root/work into root/kept; what is listed is there, and is nothing else."""
    (root / "kept").mkdir()
    fds = [os.open(root / each, os.O_RDONLY | os.O_DIRECTORY) for each in ("work", "kept")]
    wanted = [Artifact(path=each) for each in patterns]
    try:
        found = collect(wanted, fds[0], fds[1], account, limits, Disk())
    finally:
        for fd in fds:
            os.close(fd)
    holds(root / "kept", found)
    return found


def holds(directory: Path, found: Collected | Result) -> None:
    files = found.files if isinstance(found, Collected) else found.artifacts
    assert {each.path for each in files} == paths_below(directory)
    for each in files:
        content = (directory / each.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each.size, each.sha256)


def paths_below(directory: Path) -> set[str]:
    found = (each for each in directory.rglob("*") if not each.is_dir() or each.is_symlink())
    return {str(each.relative_to(directory)) for each in found}


# --- which files --------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for each in (
        "a.pdf",
        "b.txt",
        ".hidden.pdf",
        "report/x.html",
        "report/deep/y.css",
        "p/q/z.pdf",
    ):
        path = tmp_path / "work" / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(each)
    (tmp_path / "work/report/.dot").touch()
    (tmp_path / "work/empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("a.pdf", {"a.pdf"}),
        ("*.pdf", {"a.pdf"}),
        (".*.pdf", {".hidden.pdf"}),
        ("**/*.pdf", {"a.pdf", "p/q/z.pdf"}),
        ("report", {"report/x.html", "report/deep/y.css", "report/.dot"}),
        ("report/", {"report/x.html", "report/deep/y.css", "report/.dot"}),
        ("./report//deep", {"report/deep/y.css"}),
        ("*/*", {"report/x.html", "report/deep/y.css", "p/q/z.pdf"}),
        ("[ab].*", {"a.pdf", "b.txt"}),
        ("?.txt", {"b.txt"}),
        ("p/**", {"p/q/z.pdf"}),
        ("p/**/z.pdf", {"p/q/z.pdf"}),
        ("nothing*", set()),
        ("a.pdf/x", set()),
        ("empty", set()),
    ],
)
def test_a_pattern_keeps_these(tree: Path, pattern: str, files: set[str]) -> None:
    found = kept(tree, pattern)
    assert {each.path for each in found.files} == files
    assert found.complaints == []


NAMES = st.sampled_from(["a", "b", "ab", ".a", "c.d"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
PARTS = st.sampled_from(["a", "b", "*", "a*", "?", "[ab]", "**", ".a", ".*"])


@given(st.sets(PATHS, max_size=8), st.lists(PARTS, min_size=1, max_size=4).map("/".join))
@settings(deadline=None, max_examples=300)
def test_patterns_are_those_of_the_shell(files: set[tuple[str, ...]], pattern: str) -> None:
    """As Python's own glob has them; and a directory stands for all that is in it."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        for path in sorted(files):
            target = work.joinpath(*path)
            if not any((work.joinpath(*path[:end])).is_file() for end in range(1, len(path))):
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    target.touch()
        matched = {
            each
            for each in glob.glob(pattern, root_dir=work, recursive=True)  # noqa: PTH207  # relative
            if each.strip("/")
        }
        expected = {
            path
            for path in paths_below(work)
            if any(path == each or path.startswith(each.rstrip("/") + "/") for each in matched)
        }
        last_is_any_depth = pattern.endswith("**")
        found = {each.path for each in kept(Path(scratch), pattern).files}
        # A `**` at the end is also the directory above it itself, to glob; to us, what is in it.
        if last_is_any_depth:
            expected = {each for each in expected if each in found or not hidden_below(each)}
        assert found == expected


def hidden_below(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


# --- jobs ---------------------------------------------------------------------------------------


def artifacts_of(box: SpoolBox, result: Result) -> Path:
    return box.path(result.state.value, result.id, "artifacts")


def test_a_job_leaves_artifacts_and_the_result_lists_them(box: SpoolBox) -> None:
    box.start()
    script = "echo one > a.txt; mkdir r; echo two > r/b; chmod +x r/b"
    result = box.run("j", f"run: {script}\nartifacts: ['*.txt', r]\n")
    assert [each.path for each in result.artifacts] == ["a.txt", "r/b"]
    assert result.artifacts[0].sha256 == hashlib.sha256(b"one\n").hexdigest()
    directory = artifacts_of(box, result)
    holds(directory, result)
    assert (directory / "r/b").stat().st_mode & 0o777 == 0o755
    assert result.truncated == ()


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("true", ["always", "success"]),
        ("exit 3", ["always", "failure"]),
        ("kill $$", ["always", "failure"]),
    ],
)
def test_what_is_kept_depends_on_how_it_ended(box: SpoolBox, script: str, names: list[str]) -> None:
    box.start()
    wanted = ", ".join(f"{{path: {each}, when: {each}}}" for each in When)
    job = f"run: touch success failure always; {script}\nartifacts: [{wanted}]\n"
    assert sorted(each.path for each in box.run("j", job).artifacts) == names


def test_a_job_without_what_is_required_has_failed(box: SpoolBox) -> None:
    box.start()
    result = box.run("j", "run: touch a\nartifacts: [a, {path: b, required: true}]\n")
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, Reason.ARTIFACT, None)
    assert result.message == (
        "the job succeeded, but there is no artifact b, or not all of it could be kept"
    )
    assert [each.path for each in result.artifacts] == ["a"]
    failed = box.run("k", "run: exit 4\nartifacts: [{path: b, required: true}]\n")
    assert (failed.reason, failed.exit_code) == (Reason.EXIT, 4)


def test_of_several_attempts_the_last_has_its_artifacts(box: SpoolBox) -> None:
    box.start()
    job = (
        "run: touch a.$RUNNER_ATTEMPT; [ $RUNNER_ATTEMPT -eq 2 ] && rm a.1\n"
        "artifacts: ['a.*']\nretry: {max: 1, delay: 0}\n"
    )
    result = box.run("j", job)
    assert [each.path for each in result.artifacts] == ["a.2"]
    holds(artifacts_of(box, result), result)
    job = "run: touch a; rm a; exit 1\nartifacts: [{path: a, required: true}]\n"
    again = "retry: {max: 1, delay: 0, on: [artifact]}\n"
    assert len(box.run("k", job + again).attempts) == 1
    assert len(box.run("l", job.replace("; exit 1", "") + again).attempts) == 2


def test_an_interrupted_job_shows_no_half_of_its_artifacts(box: SpoolBox) -> None:
    """Of the first attempt some are there; the second is interrupted before any are."""
    box.start(slots=1)
    gate = box.gate()
    job = f"run: touch a; [ $RUNNER_ATTEMPT -gt 1 ] && read x < {gate}\n"
    box.drop("j", job + "artifacts: [a]\nretry: {max: 1, delay: 0}\n")
    until(lambda: '"attempt":2' in status_of(box, "j"), "no second attempt")
    assert box.path("running", "j", "artifacts", "a").exists()
    (runner,) = box.runners()
    runner.kill()
    result = box.result("j")
    assert (result.reason, result.artifacts) == (Reason.INTERRUPTED, ())
    assert not artifacts_of(box, result).exists()


def status_of(box: SpoolBox, job_id: str) -> str:
    path = box.path("running", job_id, "status.json")
    return path.read_text().replace(" ", "") if path.exists() else ""


def test_limits_of_artifacts_leave_out_and_say_so(box: SpoolBox) -> None:
    box.start()
    job = (
        "run: head -c 600 /dev/zero > a; head -c 600 /dev/zero > b; touch c d e\n"
        "artifacts: ['*']\nlimits: {artifacts: 1K, artifact_files: 3}\n"
    )
    result = box.run("j", job)
    assert [each.path for each in result.artifacts] == ["a", "c", "d"]
    assert result.truncated == ("artifacts",)
    assert box.output("j") == (
        "==> artifacts: b was left out: is larger than the 424 that are left for artifacts\n"
        "==> artifacts: e was left out: there are too many files\n"
    )
    assert result.state is State.DONE


# --- hostile work -------------------------------------------------------------------------------


def test_links_and_what_is_no_file_are_left_out(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "d").mkdir(parents=True)
    (work / "link").symlink_to("/etc/passwd")
    (work / "dir").symlink_to("/etc")
    (work / "d/up").symlink_to("..")
    os.mkfifo(work / "fifo")
    (work / "good").write_text("good")
    (work / "line\nbreak").write_text("x")
    (work / os.fsdecode(b"bytes\xff")).write_text("x")
    found = kept(tmp_path, "*", "dir/passwd", "d/up/good")
    assert {each.path for each in found.files} == {"good", "line\nbreak"}
    assert found.left_out == 5


def test_a_terabyte_of_nothing_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with (tmp_path / "work/huge").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "work/small").write_text("x")
    found = kept(tmp_path, "*")
    assert [each.path for each in found.files] == ["small"]


@pytest.mark.heavy
def test_ten_thousand_files_and_deep_directories_end(tmp_path: Path) -> None:
    deep = tmp_path / "work"
    deep.mkdir()
    for number in range(10_000):
        (deep / f"f{number}").touch()
    for _ in range(70):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "x").touch()
    found = kept(tmp_path, "**", "**/**/**/**/x", limits=Limits(artifact_files=50))
    assert len(found.files) == 50
    assert found.left_out >= 9_950
    assert len(found.told()) < 30


@pytest.mark.root
def test_nothing_is_read_with_rights_that_the_job_has_not(tmp_path: Path) -> None:
    """A file of root's, under a name in work/, as a hard link would give it one."""
    tmp_path.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "shadow").write_text("secret")
    (work / "shadow").chmod(0o600)
    (work / "closed").mkdir(mode=0o700)
    (work / "closed/x").write_text("secret")
    (work / "mine").write_text("x")
    member = account_of(MEMBER)
    os.chown(work, member.uid, member.gid)
    before = os.geteuid(), os.getegid(), os.getgroups()
    found = kept(tmp_path, "*", "closed/x", account=member)
    assert [each.path for each in found.files] == ["mine"]
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert (tmp_path / "kept/mine").stat().st_uid == os.geteuid()


@pytest.mark.root
def test_another_file_system_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "work/other").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "work/other"], check=True)
    try:
        (tmp_path / "work/other/x").touch()
        found = kept(tmp_path, "other", "other/x")
    finally:
        subprocess.run(["umount", tmp_path / "work/other"], check=True)
    assert found.files == []
    assert found.complaints == ["other was left out: is another file system"] * 2


SWAP = """
import os, sys
os.chdir(sys.argv[1])
os.symlink("/etc", "evil")
print(flush=True)
while True:
    for pair in (("d", "d.real"), ("evil", "d"), ("d", "evil"), ("d.real", "d")):
        os.rename(*pair)
    with open("grows", "r+b") as file:
        file.truncate(0)
        file.write(b"x" * 5000)
"""


def test_files_that_change_all_the_time_are_kept_as_they_were_at_some_moment(
    tmp_path: Path,
) -> None:
    work = tmp_path / "work"
    (work / "d").mkdir(parents=True)
    (work / "d/passwd").write_text("mine")
    (work / "grows").write_text("x")
    command = [sys.executable, "-c", SWAP, str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        try:
            for number in range(200):
                (tmp_path / "kept").exists() and (tmp_path / "kept").rename(tmp_path / str(number))
                kept(tmp_path, "d/passwd", "grows", "d")
        finally:
            swapper.kill()
    everything = [each for each in tmp_path.rglob("passwd") if "work" not in each.parts]
    assert everything
    assert {each.read_text() for each in everything} == {"mine"}
