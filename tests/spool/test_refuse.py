"""What cannot be a job is answered in failed/, with reason and place, and hurts nobody."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from spoolbox import SpoolBox

from runnerd.model import Reason, State

# file name: content, code, line, column, a part of the message
TEXTS: dict[str, tuple[bytes, str, int | None, int | None, str]] = {
    "broken": (b'run: "no end\n', "yaml-syntax", 2, 1, "end of stream"),
    "nested": (b"run: a: b\n", "yaml-syntax", 1, 7, "mapping values are not allowed here"),
    "tab": (b"\trun: a\n", "yaml-syntax", 1, 1, "'\\t'"),
    "twice": (b"run: a\nrun: b\n", "duplicate-key", 2, 1, "a second time; the first is on line 1"),
    "tag": (b"run: a\ntimeout: !!int 3\n", "tag", 2, 10, "the tag !!int is not allowed"),
    "python-tag": (b"run: !!python/object/apply:os.system [id]\n", "tag", 1, 6, "not allowed"),
    "anchor": (b"run: &x a\n", "anchor", 1, 6, "the anchor &x is not allowed"),
    "alias": (b"run: *x\n", "alias", 1, 6, "the alias *x is not allowed"),
    "merge": (b"run: a\n<<: {name: b}\n", "special", 2, 1, "<<"),
    "unknown": (b"run: a\ntimout: 5\n", "unknown-field", 2, 1, "did you mean `timeout`?"),
    "type": (b"run: a\nenv: [b]\n", "bad-value", 2, 6, "expected a mapping"),
    "duration": (b"run: a\ntimeout: soon\n", "bad-value", 2, 10, "like 90s, 10m"),
    "reserved": (b"run: a\nenv: {RUNNER_X: b}\n", "bad-value", 2, 7, "RUNNER_"),
    "executor": (b"run: a\nexecutor: shel\n", "executor", 2, 11, "there is no executor"),
    "both": (b"run: a\ncommand: [b]\n", "together", 2, 1, "only one field"),
    "neither": (b"name: a\n", "nothing-to-run", None, None, "`run`, `command`"),
    "list": (b"- a\n", "not-a-mapping", 1, 1, "must be a mapping"),
    "several": (b"run: a\n---\nrun: b\n", "several-documents", 2, 1, "one document"),
    "deep": (b"run: " + b"[" * 40 + b"]" * 40, "too-deep", 1, 25, "20 levels"),
    "empty": (b"", "empty", None, None, "the file is empty"),
    "comment": (b"# nothing\n", "empty", None, None, "the file is empty"),
    "binary": (bytes(range(256)), "encoding", 2, 118, "is not UTF-8"),
    "nul": (b"run: a\x00b\n", "character", 1, 7, "U+0000"),
    "escape": (b'run: "\\UFFFFFFFF"\n', "yaml-syntax", 1, 9, "no whole character"),
    "escaped-nul": (b'run: "a\\0b"\n', "bad-value", 1, 6, "NUL"),
    "huge": (b"run: a\n" + b"#" * (10 << 20), "too-big", None, None, "256 KiB"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_text_is_answered_with_its_place(box: SpoolBox, name: str) -> None:
    content, code, line, column, part = TEXTS[name]
    box.start()
    result = box.run(name, content)
    assert (result.state, result.reason) == (State.FAILED, Reason.INVALID)
    assert result.error is not None
    assert result.error.code == code
    assert (result.error.line, result.error.column) == (line, column)
    assert part in result.message
    log = box.output(name)
    place = f":{result.error.line}:{result.error.column}" if result.error.line else ""
    assert log.startswith(f"{name}.yaml{place}: ")
    assert box.path("failed", name, "job.yaml").read_bytes() == content
    _is_unhurt(box)


def test_depth_without_end_is_refused(box: SpoolBox) -> None:
    box.start()
    result = box.run("deep", b"[" * 100_000)
    assert result.error is not None
    assert result.error.code == "too-deep"  # where, depends on the version of libyaml
    _is_unhurt(box)


PRIVATE = "run: echo the-words-of-somebody-else"


def plant_link(path: Path) -> None:
    target = path.parent.parent.parent / "foreign"
    target.write_text(PRIVATE)
    path.symlink_to(target)


def plant_link_to_the_shadows(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def plant_dangling_link(path: Path) -> None:
    path.symlink_to("/no/such/file")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path) -> None:
    made = path.parent.parent / "made"
    made.mkdir()
    (made / "inside").write_text("kept")
    made.rename(path)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(path.parent, os.O_RDONLY)
        sock.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def plant_hard_link(path: Path) -> None:
    target = path.parent.parent.parent / "foreign"
    target.write_text(PRIVATE)
    os.link(target, path)


def plant_device(path: Path) -> None:
    os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 3))


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (plant_link, "symbolic link"),
        (plant_link_to_the_shadows, "symbolic link"),
        (plant_dangling_link, "symbolic link"),
        pytest.param(plant_device, "device", marks=pytest.mark.root),
        (plant_fifo, "FIFO"),
        (plant_directory, "directory"),
        (plant_socket, "socket"),
        (plant_hard_link, "hard link"),
    ],
)
def test_what_is_no_plain_file_is_refused_unread(
    box: SpoolBox, plant: Callable[[Path], None], word: str
) -> None:
    box.start()
    plant(box.path("incoming", "odd.yaml"))
    result = box.result("odd")
    assert (result.state, result.reason) == (State.FAILED, Reason.INVALID)
    assert result.error is not None
    assert result.error.code == "not-a-file"
    assert word in result.message
    kept = {".claim", "output.log", "result.json"}
    if plant is plant_directory:
        kept.add("dropped")
        assert box.path("failed", "odd", "dropped", "inside").read_text() == "kept"
    assert set(os.listdir(box.path("failed", "odd"))) == kept
    assert box.output("odd").startswith("odd.yaml: a job must be a plain file")
    for file in box.path("failed").rglob("*"):
        assert file.is_dir() or PRIVATE.encode() not in file.read_bytes(), f"{file} tells them"
    foreign = box.scratch / "foreign"
    assert not foreign.exists() or foreign.read_text() == PRIVATE
    _is_unhurt(box)


@pytest.mark.parametrize(
    ("name", "job_id"),
    [
        (b"two words.yaml", "two_words"),
        (b"new\nline.yaml", "new_line"),
        (b"-rf.yaml", "rf"),
        (b"..yaml.yaml", None),
        (b"....yaml", None),
        ("übung.yaml".encode(), "bung"),
        (b"\xff\xfe.yaml", "unnamed"),
        (b"x" * 250 + b".yaml", "x" * 128),
        (b"+@-.yaml", "unnamed"),
        (b"a;b$(id).json", "a_b_id_"),
    ],
)
def test_an_odd_name_is_refused_under_a_safe_id(
    box: SpoolBox, name: bytes, job_id: str | None
) -> None:
    box.start()
    path = os.fsencode(box.path("incoming")) + b"/" + name
    ready = os.fsencode(box.scratch) + b"/x"
    with open(ready, "wb") as file:  # noqa: PTH123  # pathlib knows no bytes
        file.write(b"run: echo no")
    os.rename(ready, path)  # noqa: PTH104  # same
    if job_id is None:  # a leading dot: not ready yet
        _is_unhurt(box, left=1)
        return
    result = box.result(job_id)
    assert (result.state, result.reason) == (State.FAILED, Reason.INVALID)
    assert result.error is not None
    assert result.error.code == "name"
    _is_unhurt(box)


@pytest.mark.root
def test_a_file_of_another_user_is_denied_and_never_run(box: SpoolBox) -> None:
    box.start()
    ran = box.scratch / "ran"
    staged = box.scratch / "foreign.yaml"
    staged.write_text(f"run: touch {ran}")
    os.chown(staged, 65534, 65534)
    staged.rename(box.path("incoming", "foreign.yaml"))
    result = box.result("foreign")
    assert (result.state, result.reason) == (State.FAILED, Reason.DENIED)
    assert "uid 65534" in result.message
    assert not ran.exists()
    _is_unhurt(box)


def test_good_and_bad_files_together_are_all_answered(box: SpoolBox) -> None:
    box.start()
    for number in range(100):
        box.drop(f"good{number}", "run: echo x")
        box.drop(f"bad{number}", "run: [\n")
    for number in range(100):
        assert box.result(f"good{number}").state is State.DONE
        assert box.result(f"bad{number}").reason is Reason.INVALID
    assert len(os.listdir(box.path("done"))) == len(os.listdir(box.path("failed"))) == 100
    _is_unhurt(box)


def test_bad_files_do_not_wait_for_a_slot(box: SpoolBox) -> None:
    gate = box.gate()
    box.start(slots=1)
    box.drop("long", f"run: read x < {gate}")
    assert box.run("bad", "run: [").reason is Reason.INVALID
    gate.open()
    assert box.result("long").state is State.DONE


def test_all_faults_of_a_file_are_told_at_once(box: SpoolBox) -> None:
    box.start()
    result = box.run("bad", "nam: x\nrun: ''\ntimeout: never\n")
    assert [(each.line, each.code) for each in result.errors] == [
        (1, "unknown-field"),
        (2, "bad-value"),
        (3, "bad-value"),
    ]
    assert box.output("bad") == (
        "bad.yaml:1:1: unknown field `nam`: did you mean `name`?\n"
        "    1 | nam: x\n"
        "      | ^\n"
        "bad.yaml:2:6: `run`: expected a script, or a list of commands, found empty\n"
        "    2 | run: ''\n"
        "      |      ^\n"
        "bad.yaml:3:10: `timeout`: expected a duration from 0.001s to 365d, like 90s, 10m, 2h or "
        "1d, found 'never'\n"
        "    3 | timeout: never\n"
        "      |          ^\n"
    )


def test_a_file_under_a_lease_holds_up_nobody_else(box: SpoolBox) -> None:
    """Its owner may hold a write lease: the open then fails for the daemon, for that file only."""
    box.start()
    leased = box.scratch / "leased.yaml"
    leased.write_text("run: echo leased")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel asks for the lease back
    try:
        with leased.open("r+") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            leased.rename(box.path("incoming", "leased.yaml"))
            assert box.run("good", "run: echo x", within_s=5).state is State.DONE
            assert box.path("incoming", "leased.yaml").exists()
    finally:
        signal.signal(signal.SIGIO, before)
    assert box.result("leased").state is State.DONE


def _is_unhurt(box: SpoolBox, left: int = 0) -> None:
    """The daemon lives and works; nothing lies where it should not."""
    assert box.run("afterwards", "run: echo well").state is State.DONE
    assert len(os.listdir(box.path("incoming"))) == left
    assert not os.listdir(box.path("running"))
