"""What hostile submitters try, and what happens instead."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import mmap
import os
import pwd
import shutil
import socket
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from spoolbox import PATIENCE_S, SpoolBox, until

from runnerd.control import Verb
from runnerd.model import Reason, State

pytestmark = [pytest.mark.root, pytest.mark.heavy]

# Accounts that every Debian has. The first two are members of the group, the others are not.
MEMBER, FELLOW, STRANGER, DEPUTY = "nobody", "sync", "games", "www-data"
GROUP = "nogroup"
GID = pwd.getpwnam(MEMBER).pw_gid
WORDS = "the-words-of-somebody-else"
RACE_S = 1.5


@contextlib.contextmanager
def opened() -> Iterator[SpoolBox]:
    """A spool that ordinary users can reach."""
    scratch = Path(tempfile.mkdtemp(prefix="runnerd-attacks-"))
    scratch.chmod(0o755)
    box = SpoolBox(scratch)
    try:
        yield box
    finally:
        box.close()
        shutil.rmtree(scratch)


@pytest.fixture
def open_box() -> Iterator[SpoolBox]:
    with opened() as box:
        yield box


@pytest.fixture
def served(open_box: SpoolBox) -> SpoolBox:
    open_box.start(group=GROUP)
    return open_box


@contextlib.contextmanager
def being(user: str, *groups: int) -> Iterator[None]:
    """For the kernel's checks of files and signals, this process is now that user's.

    A program of that user's would not do: our Python may lie where the user cannot go.
    """
    account, ours = pwd.getpwnam(user), os.getgroups()
    os.setgroups(groups)
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(ours)


def drop_as(box: SpoolBox, user: str, file: str, job: str, *, mode: int = 0o600) -> None:
    """Write and rename, as that user."""
    hidden = box.path("incoming", f".{user}")
    with being(user, GID):
        hidden.write_text(job, "utf-8", "surrogateescape")
        hidden.chmod(mode)
        hidden.rename(box.path("incoming", file))


class Race:
    """Goes on for a while, and until enough was claimed: a busy machine takes longer for it."""

    def __init__(self, box: SpoolBox) -> None:
        self._box = box
        self._began = time.monotonic()

    def is_on(self) -> bool:
        past_s = time.monotonic() - self._began
        if past_s < RACE_S:
            return True
        filed = len(names(self._box, "done")) + len(names(self._box, "failed"))
        assert filed > 10 or past_s < PATIENCE_S, "the race was not tried"
        return filed <= 10


def readable(box: SpoolBox, user: str) -> str:
    """All that this user can read below the spool, wherever it lies."""
    texts = []
    files = [each for each in box.root.rglob("*") if each.is_file() and not each.is_symlink()]
    with being(user, GID):
        for file in files:
            with contextlib.suppress(PermissionError):
                texts.append(file.read_text(errors="replace"))
    return "\n".join(texts)


def settle(box: SpoolBox) -> None:
    """Wait until every file is filed, and see that the daemon serves others as ever."""
    serve_others(box)
    until(lambda: not names(box, "incoming"), "not all was taken")
    until(lambda: not names(box, "running"), "not all was filed")


def serve_others(box: SpoolBox) -> None:
    drop_as(box, FELLOW, "honest.yaml", "run: id -un")
    assert box.result("honest").state is State.DONE
    assert box.output("honest") == f"{FELLOW}\n"
    log = box.log.read_text().splitlines()
    assert [line for line in log if "no new jobs are taken" in line] == []


def names(box: SpoolBox, place: str) -> list[str]:
    return [name for name in os.listdir(box.path(place)) if not name.startswith(".")]


# --- files that are not what they seem -----------------------------------------------------------


@pytest.mark.parametrize("owner", ["root", FELLOW])
@pytest.mark.parametrize("plant", [os.link, os.symlink])
def test_a_link_to_a_foreign_file_runs_nothing_and_tells_nothing(
    served: SpoolBox, plant: Callable[[Path, Path], None], owner: str
) -> None:
    ran = served.scratch / "ran"
    texts = {"job": f"run: touch {ran} # {WORDS}\n", "other": f"root:{WORDS}:1::\n"}
    for name, text in texts.items():
        foreign, shown = served.scratch / name, served.path("incoming", f"{name}.yaml")
        foreign.write_text(text)
        foreign.chmod(0o600)
        shutil.chown(foreign, owner)
        with being(MEMBER), contextlib.suppress(PermissionError):
            plant(foreign, shown)
        if not shown.is_symlink() and not served.path("failed", name).exists():
            plant(foreign, shown)  # what a user can where fs.protected_hardlinks is 0
    for name, text in texts.items():
        result, foreign = served.result(name), served.scratch / name
        assert (result.reason, result.user) == (Reason.INVALID, None)
        assert (foreign.read_text(), foreign.owner()) == (text, owner)
    settle(served)
    assert WORDS not in readable(served, MEMBER)
    assert not ran.exists()


def test_a_link_to_the_shadows_tells_nothing(served: SpoolBox) -> None:
    with being(MEMBER):
        served.path("incoming", "job.yaml").symlink_to("/etc/shadow")
    assert served.result("job").reason is Reason.INVALID
    settle(served)
    assert not set(Path("/etc/shadow").read_text().split()) & set(readable(served, MEMBER).split())


def test_a_file_of_roots_that_lay_in_a_users_directory_does_not_run_as_root(
    served: SpoolBox,
) -> None:
    """Whoever may write in a directory may rename what lies there: say, a log that root wrote."""
    ran, home = served.scratch / "ran", served.scratch / "home"
    home.mkdir()
    shutil.chown(home, MEMBER)
    (home / "report.log").write_text(f"run: touch {ran}\n")
    with being(MEMBER):
        (home / "report.log").rename(served.path("incoming", "job.yaml"))
    result = served.result("job")
    assert not ran.exists(), f"{result.user} ran it"
    assert result.reason is Reason.DENIED


@pytest.mark.parametrize(
    ("owner", "mode"), [(MEMBER, 0o606), (MEMBER, 0o660), ("root", 0o666), (FELLOW, 0o666)]
)
def test_a_file_that_others_may_write_is_refused(served: SpoolBox, owner: str, mode: int) -> None:
    """Its content says nothing about its owner's will."""
    ran, foreign = served.scratch / "ran", served.scratch / "foreign"
    shown = served.path("incoming", "job.yaml")
    foreign.write_text(f"run: touch {ran}")
    foreign.chmod(mode)
    shutil.chown(foreign, owner, GROUP)
    with being(MEMBER):
        foreign.write_text(f"run: touch {ran}")
        os.link(foreign, shown)
    foreign.unlink()  # the link that is left is a plain file with one name
    result = served.result("job")
    assert (result.reason, ran.exists()) == (Reason.INVALID, False)
    assert result.error is not None
    assert result.error.code == "unsafe-mode"


def plant_symlink(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "foreign")


def plant_hard_link(path: Path) -> None:
    (path.parent / ".another-name").write_text("run: echo never")
    os.link(path.parent / ".another-name", path)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def exchange(one: Path, other: Path) -> None:
    libc, at_cwd, rename_exchange = ctypes.CDLL(None, use_errno=True), -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), rename_exchange) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def clear(path: Path) -> None:
    with contextlib.suppress(OSError):  # the daemon may take it at any moment
        path.unlink()
    with contextlib.suppress(OSError):
        path.rmdir()


@pytest.mark.parametrize(
    "plant", [plant_symlink, plant_hard_link, plant_socket, os.mkfifo, Path.mkdir]
)
def test_what_is_swapped_in_during_the_claim_runs_nothing(
    served: SpoolBox, plant: Callable[[Path], None]
) -> None:
    ran, foreign = served.scratch / "ran", served.scratch / "foreign"
    foreign.write_text(f"run: touch {ran} # {WORDS}")
    foreign.chmod(0o600)
    shown, hidden = served.path("incoming", "race.yaml"), served.path("incoming", ".decoy")
    race = Race(served)
    with being(MEMBER):
        while race.is_on():
            try:
                exchange(hidden, shown)
            except FileNotFoundError:  # one of them was taken
                clear(hidden)
                clear(shown)
                plant(hidden)
                good = served.path("incoming", ".good")
                good.write_text("run: id -un")
                with contextlib.suppress(OSError):
                    good.rename(shown)
        clear(hidden)
    settle(served)
    for name in [*names(served, "done"), *names(served, "failed")]:
        result = served.result(name)
        if result.state is State.DONE:
            assert served.output(name) == f"{result.submitter}\n"
        else:
            assert (result.reason, result.user) == (Reason.INVALID, None)
    assert WORDS not in readable(served, MEMBER)
    assert not ran.exists()


def test_inputs_that_their_submitter_swaps_all_the_time_tell_nothing(open_box: SpoolBox) -> None:
    """A claim does not take away the descriptor of a bundle that its submitter has kept."""
    foreign, mine = open_box.scratch / "foreign", f"{MEMBER}'s own\n"
    foreign.write_text(WORDS)
    foreign.chmod(0o600)
    allow = f"allow: {{groups: [{GROUP}]}}\ninputs: true\n"
    open_box.template("t", f"{allow}job: {{user: {DEPUTY}, run: 'cat a; rm a'}}\n")
    open_box.start(group=GROUP)
    race, link = Race(open_box), open_box.path("incoming", ".link")
    with being(MEMBER, GID):
        link.symlink_to(foreign)
        for number in itertools.count():
            if not race.is_on():
                break
            bundle = open_box.path("incoming", ".bundle")
            bundle.mkdir(0o700)
            for name, text in (("job.yaml", "uses: t"), ("a", mine)):
                (bundle / name).write_text(text)
                (bundle / name).chmod(0o600)
            fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
            bundle.rename(open_box.path("incoming", f"b{number}"))
            held = Path(f"/proc/self/fd/{fd}/a")
            while len(names(open_box, "done")) + len(names(open_box, "failed")) <= number:
                exchange(held, link)
            if not link.is_symlink():
                exchange(held, link)
            os.close(fd)
    settle(open_box)
    for name in {*names(open_box, "done")} - {"honest"}:
        assert open_box.output(name) == mine
    for name in names(open_box, "failed"):
        assert open_box.result(name).reason is Reason.INVALID
    assert len(names(open_box, "done")) > 1
    for user in (MEMBER, DEPUTY):
        assert WORDS not in readable(open_box, user)
    assert foreign.read_text() == WORDS


def test_a_mount_point_in_the_queue_stops_nobody(served: SpoolBox) -> None:
    """Users mount in directories of theirs, with fusermount(1); such a name cannot be moved."""
    hidden, shown = served.path("incoming", ".job"), served.path("incoming", "job.yaml")
    with being(MEMBER):
        hidden.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    served.stop()
    hidden.rename(shown)
    if libc.mount(b"none", os.fsencode(shown), b"tmpfs", 0, None) != 0:
        pytest.skip("this root may not mount")
    try:
        served.start(group=GROUP)
        serve_others(served)
    finally:
        libc.umount2(os.fsencode(shown), 0)


def replace(shown: Path, text: bytes) -> None:
    hidden = shown.with_name(".next")
    hidden.write_bytes(text)
    hidden.rename(shown)


def overwrite(shown: Path, text: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # the daemon keeps us out
        fd = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600)
        os.pwrite(fd, text, 0)
        os.close(fd)


@pytest.mark.parametrize("change", [replace, overwrite])
def test_what_ran_is_what_was_filed(
    served: SpoolBox, change: Callable[[Path, bytes], None]
) -> None:
    shown, race = served.path("incoming", "race.yaml"), Race(served)
    number = 0
    with being(MEMBER):
        while race.is_on():
            number += 1
            change(shown, b"run: echo %08d\n" % number)
    settle(served)
    filed = set(names(served, "done")) - {"honest"}
    assert not names(served, "failed")
    texts = {name: served.path("done", name, "job.yaml").read_text() for name in filed}
    assert texts == {name: f"run: echo {served.output(name)}" for name in filed}
    assert len(set(texts.values())) == len(texts)


def test_a_file_that_somebody_can_still_write_is_not_taken(served: SpoolBox) -> None:
    hidden, shown = served.path("incoming", ".job"), served.path("incoming", "job.yaml")
    with being(MEMBER):
        hidden.write_text("run: echo good")
        with hidden.open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0)  # holds the file open until it is closed
        hidden.rename(shown)
    drop_as(served, FELLOW, "later.yaml", "run: echo x")
    served.result("later")
    assert shown.exists()
    mapped[:] = b"run: echo evil"
    mapped.close()
    assert served.result("job").user == MEMBER
    assert served.output("job") == "evil\n"
    assert served.path("done", "job", "job.yaml").read_text() == "run: echo evil"


def test_what_is_written_into_a_claimed_file_reaches_nothing(served: SpoolBox) -> None:
    gate, job = served.gate(), served.path("running", "job")
    text = f"run: |\n  read x < {gate}\n  echo good\n"
    drop_as(served, MEMBER, "job.yaml", text)
    until((job / "status.json").exists, "the job did not start")
    with being(MEMBER):
        fd = os.open(job / "job.yaml", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"  echo evil\n")
    gate.open()
    assert served.result("job").state is State.DONE
    os.write(fd, b"  echo evil\n")
    os.close(fd)
    filed = served.path("done", "job", "job.yaml")
    assert (served.output("job"), filed.read_text(), filed.owner()) == ("good\n", text, "root")
    with being(MEMBER), pytest.raises(PermissionError):
        filed.open("a")


# --- names and ids -------------------------------------------------------------------------------


def test_odd_names_lead_nowhere(served: SpoolBox) -> None:
    expected = {
        "..yaml": None,
        "...yaml": None,
        "a..yaml": "a.",
        "-rf.yaml": "rf",
        "x\ny.yaml": "x_y",
        "%2e%2e.yaml": "2e_2e",
        "b\\..\\c.yaml": "b_.._c",
        "$(touch ran).yaml": "touch_ran_",
    }
    before = sorted(os.listdir(served.scratch))
    for name in expected:
        drop_as(served, MEMBER, name, "run: id -un")
    for job_id in filter(None, expected.values()):  # without one: a leading dot, never ready
        assert (served.result(job_id).state is State.DONE) == (job_id == "a.")
    settle(served)
    filed = {name for place in ("done", "failed") for name in names(served, place)}
    assert filed == {each for each in expected.values() if each} | {"honest"}
    assert sorted(os.listdir(served.scratch)) == before
    assert {"..yaml", "...yaml"} == set(os.listdir(served.path("incoming")))


def test_a_taken_id_does_not_lead_to_who_has_it(served: SpoolBox) -> None:
    gate, theirs = served.gate(), served.path("running", "job")
    drop_as(served, FELLOW, "job.yaml", f"run: read x < {gate}; echo {WORDS}")
    until((theirs / "status.json").exists, "the job did not start")
    before = snapshot(theirs)
    drop_as(served, MEMBER, "job.yaml", "run: cat ../../job/*; id -un")
    assert served.result("job.2").user == MEMBER
    assert snapshot(theirs) == before
    gate.open()
    assert served.result("job").user == FELLOW
    before = snapshot(served.path("done", "job"))
    drop_as(served, MEMBER, "job.yaml", "run: cat ../../../done/job/*; id -un")
    assert served.result("job.3").user == MEMBER
    drop_as(served, MEMBER, "job.yaml", "run: echo never\non_duplicate: reject")
    assert served.result("job.4").reason == "duplicate"
    settle(served)
    assert snapshot(served.path("done", "job")) == before
    assert WORDS not in readable(served, MEMBER)
    assert f"{MEMBER}\n" not in readable(served, FELLOW)


def snapshot(top: Path) -> dict[str, tuple[int, ...]]:
    """What is there, and whether it was touched."""
    found = {str(each): each.lstat() for each in [top, *top.rglob("*")]}
    return {name: (*st[:7], st.st_mtime_ns, st.st_ctime_ns) for name, st in found.items()}


# --- whose file, whose rights --------------------------------------------------------------------


def test_the_groups_of_a_process_are_not_those_of_its_user(served: SpoolBox) -> None:
    """newgrp(1), a setgid program: the file gets in, and its owner is still no member."""
    drop_as(served, STRANGER, "job.yaml", "run: id")  # with the group of the spool
    assert served.result("job").reason is Reason.DENIED


def test_a_setgid_directory_gives_a_job_no_group(open_box: SpoolBox) -> None:
    box, shared = open_box, open_box.scratch / "shared"
    shared.mkdir()
    shutil.chown(shared, "root", "shadow")
    shared.chmod(0o2777)
    with being("root", shared.stat().st_gid):
        box.start(group=GROUP)  # nor do the groups of the daemon
    with being(MEMBER):
        (shared / "job").write_text("run: id -G; head -1 /etc/shadow")
        (shared / "job").chmod(0o640)
        (shared / "job").rename(box.path("incoming", "job.yaml"))
    result = box.result("job")
    assert (result.state, result.user) == (State.FAILED, MEMBER)
    assert box.output("job").startswith(f"{GID}\n")
    assert "root" not in box.output("job")
    with being(STRANGER, shared.stat().st_gid), pytest.raises(PermissionError):
        os.listdir(box.path("failed", "job"))


def test_nobody_can_drop_in_the_name_of_another(served: SpoolBox) -> None:
    hidden = served.path("incoming", ".job")
    with being(MEMBER):
        hidden.write_text("run: id")
        for uid in (0, pwd.getpwnam(FELLOW).pw_uid):
            with pytest.raises(PermissionError):
                os.chown(hidden, uid, -1)


# --- what belongs to others ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded() -> Iterator[SpoolBox]:
    """A fellow's job in each state, and one of our own that runs."""
    with opened() as box:
        box.start(group=GROUP)
        for name, job in {"well": f"run: echo {WORDS}", "bad": f"run: [{WORDS}"}.items():
            drop_as(box, FELLOW, f"{name}.yaml", job)
            box.result(name)
        gates = {"busy": box.gate("busy"), "own": box.gate("own")}
        for name, user in {"busy": FELLOW, "own": MEMBER}.items():
            drop_as(box, user, f"{name}.yaml", f"run: echo {WORDS}; read x < {gates[name]}")
            until(box.path("running", name, "status.json").exists, "the job did not start")
        drop_as(box, FELLOW, "queued.yaml", f"run: echo {WORDS}")
        with being(FELLOW):
            box.path("control", "request").write_text("x")
        yield box
        gates["busy"].open()
        gates["own"].open()
        assert {box.result(name).state for name in ("busy", "own", "queued")} == {State.DONE}


def forge(path: Path) -> None:
    path.write_text('{"state": "done"}')


def rename_over(path: Path) -> None:
    own = path.with_name(".own")
    own.write_text("run: echo forged")
    try:
        own.rename(path)
    finally:
        own.unlink(missing_ok=True)


def rename_away(path: Path) -> None:
    path.rename(path.with_name("taken.yaml"))


def open_to_lock(path: Path) -> None:
    path.open("rb").close()


def add_to(path: Path) -> None:
    forge(path / "new")


LIST, READ, REMOVE = os.listdir, Path.read_bytes, Path.unlink
OF_OTHERS: list[tuple[Callable[[Path], object], str]] = [
    *((LIST, each) for each in ("incoming", "control", "outbox")),
    *((act, "incoming/queued.yaml") for act in (READ, forge, REMOVE, rename_over, rename_away)),
    *((act, "control/request") for act in (REMOVE, rename_over, rename_away)),
    *((add_to, each) for each in (".", "outbox", "running", "done", "failed")),
    *((rename_away, each) for each in ("incoming", "running", "running/busy", "done/well")),
    *((rename_away, each) for each in ("failed/bad", "running/own")),
    *((LIST, each) for each in ("running/busy", "done/well", "failed/bad")),
    *((Path.rmdir, each) for each in ("running/busy", "done/well", "running/own/work")),
    *((add_to, each) for each in ("running/busy", "running/busy/work", "done/well", "running/own")),
    *((READ, f"running/busy/{each}") for each in ("job.yaml", "output.log", "status.json")),
    *((READ, f"done/well/{each}") for each in ("job.yaml", "output.log", "result.json")),
    *((READ, f"failed/bad/{each}") for each in ("job.yaml", "output.log", "result.json")),
    *((forge, f"{each}/result.json") for each in ("running/busy", "running/own", "done/well")),
    *((forge, f"running/own/{each}") for each in ("output.log", "status.json", ".claim")),
    *((REMOVE, f"running/own/{each}") for each in ("output.log", "job.yaml", ".claim")),
    *((open_to_lock, f"{each}/.claim") for each in ("running/own", "running/busy", "done/well")),
    (open_to_lock, "outbox"),
]


@pytest.mark.parametrize(
    ("act", "name"), OF_OTHERS, ids=[f"{act.__name__}-{name}" for act, name in OF_OTHERS]
)
def test_what_is_not_ours_cannot_be_had(
    crowded: SpoolBox, act: Callable[[Path], object], name: str
) -> None:
    before = snapshot(crowded.root)
    with being(MEMBER), pytest.raises(PermissionError):
        act(crowded.path(name))
    after = snapshot(crowded.root)
    for each in ("incoming", "control"):  # a file of our own may have come and gone there
        del before[str(crowded.path(each))], after[str(crowded.path(each))]
    assert after == before


def test_who_is_no_member_can_write_nowhere(crowded: SpoolBox) -> None:
    directories = [each for each in [crowded.root, *crowded.root.rglob("*")] if each.is_dir()]
    assert len(directories) > 10
    with being(STRANGER):
        for each in directories:
            with pytest.raises(PermissionError):
                forge(each / "new.yaml")


# --- a job against those who look after it -------------------------------------------------------


def test_a_job_cannot_hurt_those_who_look_after_it(served: SpoolBox) -> None:
    assert served.daemon is not None
    others = f"$PPID {served.nursery().pid} {served.daemon.pid}"
    script = f"""
        try() {{ if ("$@") 2> /dev/null; then echo "did: $*"; fi; }}
        try true
        for pid in {others}; do
          for signal in KILL STOP TERM HUP IO; do try kill -$signal $pid; done
          try ls /proc/$pid/fd
          try cat /proc/$pid/environ
          try sh -c "echo > /proc/$pid/mem"
        done
        for name in result.json .result.json.new .claim output.log; do
          try sh -c "echo forged > ../$name"
          try rm ../$name
        done
        try mv ../work ../gone
        try rmdir ../work
        try ln -s /etc ../etc
        try mv .. ../../gone
        try chmod 777 ..
        try setfacl -m u:{STRANGER}:rwx ..
        try flock -n ../.claim true
        cp /bin/sh shell
        chmod 6755 shell
        setsid env -i sh -c 'trap "" TERM; echo $$ > pid; (sleep 86399 &); sleep 86399' &
        until [ -s pid ]; do :; done
        echo ended
    """
    drop_as(served, MEMBER, "job.yaml", f"run: |{script}")
    assert served.result("job").state is State.DONE
    assert served.output("job") == "did: true\nended\n"
    work = served.path("done", "job", "work")
    assert (work.owner(), (work / "shell").owner()) == (MEMBER, MEMBER)
    assert [each for each in command_lines() if "86399" in each] == []
    settle(served)


def command_lines() -> list[str]:
    return [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]


# --- templates: jobs with the administrator's rights ---------------------------------------------

TEMPLATES = {
    "report": f"""
        allow: {{users: [{MEMBER}]}}
        params:
          text: {{multiline: true, max_length: 30000, required: false}}
          word: {{required: false}}
          option: {{allow_dash: true, required: false}}
          file: {{type: path, below: /srv/www, required: false}}
          host: {{type: hostname, required: false}}
        job: {{user: root, command: [env, "-0"]}}
        """,
    "script": f"""
        allow: {{groups: [{GROUP}]}}
        params: {{text: {{multiline: true, max_length: 30000}}}}
        job: {{user: root, run: printf %s "$PARAM_TEXT"}}
        """,
}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def lender() -> Iterator[SpoolBox]:
    """A daemon with templates, which stays for all attempts."""
    with opened() as box:
        (box.scratch / "jobs.d").mkdir()
        for name, text in TEMPLATES.items():
            (box.scratch / "jobs.d" / f"{name}.yaml").write_text(textwrap.dedent(text))
        box.start(group=GROUP)
        yield box


def submit(box: SpoolBox, user: str, job: str) -> str:
    name = f"job{next(NUMBERS)}"
    drop_as(box, user, f"{name}.yaml", job)
    return name


def refusal(box: SpoolBox, job: str, *, user: str = MEMBER) -> str:
    """In a word, why this was refused. Nothing of it has run."""
    result = box.result(submit(box, user, job))
    assert (result.state, result.user, result.started_at) == (State.FAILED, None, None)
    assert result.reason is not None
    return result.reason.value


BAD_NAMES = [
    *("uses: ../../etc/passwd", "uses: ../runnerd", "uses: /etc/shadow", 'uses: "report\\0"'),
    *("uses: ''", "uses: report.yaml", "uses: report/../report", "uses: [report]"),
    *("run: id\nsecrets: {A: /etc/shadow}", "run: id\nsecrets: {A: ../runnerd.yaml}"),
    *("run: id\nartifacts: [../../../etc/passwd]", "run: id\nartifacts: [/etc/passwd]"),
]


@pytest.mark.parametrize("job", BAD_NAMES)
def test_no_name_leads_to_another_file(lender: SpoolBox, job: str) -> None:
    assert refusal(lender, job) == "invalid"
    assert "root:" not in readable(lender, MEMBER)


BESIDE = [
    *("env: {LD_PRELOAD: /tmp/evil.so}", "env: {BASH_ENV: /tmp/evil}", "env: {PATH: /tmp}"),
    *("env: {PARAM_TEXT: x}", "run: id", "command: [id]", "steps: [{run: id}]", "user: root"),
    *("user: nobody", "executor: shell", "secrets: {A: smtp}", "timeout: 1h", "kill_after: 0s"),
    *("with: {LD_PRELOAD: x}", "with: {path: x}", "with: {PATH: x}", "with: {text: [a]}"),
]


@pytest.mark.parametrize("field", BESIDE)
def test_nothing_is_smuggled_in_beside_a_template(lender: SpoolBox, field: str) -> None:
    assert refusal(lender, f"uses: report\n{field}") == "invalid"


def test_the_environment_of_a_template_is_clean(lender: SpoolBox) -> None:
    text = "x\nLD_PRELOAD=/tmp/evil.so\nPATH=/tmp"
    job = {"uses": "report", "with": {"text": text, "option": "-rf", "word": "A=b"}}
    name = submit(lender, MEMBER, json.dumps(job))
    result = lender.result(name)
    assert (result.state, result.submitter, result.user) == (State.DONE, MEMBER, "root")
    pairs = (pair.partition("=") for pair in lender.output(name).removesuffix("\0").split("\0"))
    env = {name: value for name, _, value in pairs}
    assert [env.pop(f"PARAM_{each}") for each in ("TEXT", "OPTION", "WORD")] == [text, "-rf", "A=b"]
    assert env.pop("PATH") == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env.pop("HOME") == pwd.getpwnam("root").pw_dir
    clean = {"LANG", "USER", "LOGNAME", "SHELL", "PWD"}
    assert {each for each in env if not each.startswith("RUNNER_")} == clean


TEXTS = [
    *("$(touch {ran})", "`touch {ran}`", "; touch {ran}", "| sh -c 'touch {ran}'", "{{{{ x }}}}"),
    *(
        "x\ntouch {ran}\n",
        '"; touch {ran}; "',
        "'; touch {ran}; '",
        " lead and trail ",
        "x" * 30000,
    ),
    *(
        "${{IFS}}${{PARAM_TEXT}} $0 $$",
        "* ? [a-z] ~ {{a,b}} \\ \\n %s %n",
        "\u00fc \u2603 \U0001f600 \u202e",
    ),
]


@pytest.mark.parametrize("text", TEXTS, ids=[text[:20] for text in TEXTS])
def test_a_parameter_arrives_as_it_is_and_is_never_run(lender: SpoolBox, text: str) -> None:
    ran = lender.scratch / "ran"
    text = text.format(ran=ran)
    name = submit(lender, MEMBER, json.dumps({"uses": "script", "with": {"text": text}}))
    assert lender.result(name).state is State.DONE
    assert lender.output(name) == text
    assert not ran.exists()


BAD_VALUES = {
    "text": ["a\0b", "\x1b[2J", "a\rb", "x" * 30001, "-rf"],
    "word": ["-rf", "--help", "-", "a\nb", "a\0b", "x" * 201, "\x7f", "\udcff"],
    "host": ["-rf", "a b", "a/b", "a;b", "..", "a\nb", "", "$(id)"],
    "file": [
        *("..", "../x", "a/../../x", "x/..", "./x", "/etc/shadow", "//etc/shadow", "a//b", "/"),
        *(
            "/srv/www",
            "/srv/www/",
            "/srv/www/../x",
            "/srv/wwwx/a",
            "/srv/www//x",
            "a\0b",
            "a\nb",
            "",
        ),
    ],
}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [(parameter, value) for parameter, values in BAD_VALUES.items() for value in values],
)
def test_a_bad_value_is_refused(lender: SpoolBox, parameter: str, value: str) -> None:
    quoted = json.dumps(value) if value != "\udcff" else value  # a byte that is no UTF-8
    assert refusal(lender, f"uses: report\nwith: {{{parameter}: {quoted}}}") == "invalid"


def test_a_value_below_the_directory_is_taken(lender: SpoolBox) -> None:
    """Or the test above would say nothing."""
    for value in ("a", "a/b", "/srv/www/a", "..a", "a..b"):
        name = submit(lender, MEMBER, f"uses: report\nwith: {{file: {value}, host: a.example}}")
        assert lender.result(name).state is State.DONE


@pytest.mark.parametrize(
    ("user", "job"),
    [
        (FELLOW, "uses: report"),
        (STRANGER, "uses: report"),
        (STRANGER, "uses: script\nwith: {text: x}"),
        (MEMBER, "run: id\nuser: root"),
        (MEMBER, f"run: id\nuser: {DEPUTY}"),
        (MEMBER, "command: [id]\nsecrets: {A: smtp}"),
        (STRANGER, "run: id"),
    ],
)
def test_what_nobody_allowed_is_denied(lender: SpoolBox, user: str, job: str) -> None:
    assert refusal(lender, job, user=user) == "denied"


def test_a_job_as_another_user_is_that_users_alone_and_the_submitters_to_read(
    open_box: SpoolBox,
) -> None:
    box, gate, deputy = open_box, open_box.gate(), pwd.getpwnam(DEPUTY)
    box.start(group=GROUP, policy=f"[{{users: [{MEMBER}], run_as: [{DEPUTY}]}}]")
    script = f"read x < {gate}; id -un; id -G; echo $HOME $USER; pwd > file; cat file"
    drop_as(box, MEMBER, "job.yaml", f"run: {script}\nuser: {DEPUTY}")
    job = box.path("running", "job")
    until((job / "status.json").exists, "the job did not start")
    with being(DEPUTY):
        for act in (os.listdir, add_to):
            with pytest.raises(PermissionError):
                act(job)
    gate.open()
    result = box.result("job")
    assert (result.state, result.submitter, result.user) == (State.DONE, MEMBER, DEPUTY)
    groups = " ".join(map(str, os.getgrouplist(DEPUTY, deputy.pw_gid)))
    expected = [DEPUTY, groups, f"{deputy.pw_dir} {DEPUTY}", str(job / "work")]
    assert box.output("job").splitlines() == expected
    assert DEPUTY in readable(box, MEMBER)
    assert readable(box, DEPUTY) == readable(box, STRANGER) == ""
    for submitter, user in {MEMBER: "root", FELLOW: DEPUTY}.items():
        assert refusal(box, f"run: id\nuser: {user}", user=submitter) == "denied"


# --- secrets -------------------------------------------------------------------------------------


def test_a_secret_is_told_to_its_job_alone(open_box: SpoolBox) -> None:
    box, gate, secrets = open_box, open_box.gate(), open_box.scratch / "secrets"
    secrets.mkdir()
    for name, mode in {"smtp-key": 0o600, "smtp-open": 0o644, "db": 0o600}.items():
        (secrets / name).write_text(f"{WORDS}\n")
        (secrets / name).chmod(mode)
    rules = f"[{{groups: [{GROUP}]}}, {{users: [{MEMBER}], secrets: [smtp-*]}}]"
    box.start(group=GROUP, policy=rules)
    script = f"read x < {gate}; printenv KEY; echo $KEY >&2; echo ${{#KEY}}; exit 3"
    drop_as(box, MEMBER, "job.yaml", f"run: {script}\nsecrets: {{KEY: smtp-key}}")
    until(box.path("running", "job", "status.json").exists, "the job did not start")
    everywhere = readable(box, "root") + str(command_lines())
    gate.open()
    assert box.result("job").exit_code == 3
    assert box.output("job") == f"***\n***\n{len(WORDS)}\n"
    drop_as(box, MEMBER, "open.yaml", "run: printenv KEY\nsecrets: {KEY: smtp-open}")
    assert box.result("open").reason is Reason.EXECUTOR
    assert box.result("open").exit_code is None
    for user, name in {MEMBER: "db", FELLOW: "smtp-key"}.items():
        assert refusal(box, f"run: printenv KEY\nsecrets: {{KEY: {name}}}", user=user) == "denied"
    assert WORDS not in everywhere + readable(box, "root") + box.log.read_text()


# --- requests ------------------------------------------------------------------------------------


def ask(box: SpoolBox, user: str, name: str) -> None:
    with being(user, GID):
        box.path("control", f".{user}").touch()
        box.path("control", f".{user}").rename(box.path("control", name))
    until(lambda: not box.path("control", name).exists(), "the request was not taken")


def test_only_the_submitter_and_root_cancel_a_job(served: SpoolBox) -> None:
    drop_as(served, MEMBER, "job.yaml", "run: sleep 1000")
    served.started("job")
    ask(served, FELLOW, "job.cancel")
    denied = f"job: cancel: not done for {FELLOW}, only the job's submitter and root may"
    until(lambda: denied in served.log.read_text(), "nothing was said")
    assert served.path("running", "job").exists()
    ask(served, MEMBER, "job.cancel")
    assert served.result("job").reason is Reason.CANCELLED
    assert served.result("job").message == f"the job was cancelled by {MEMBER}"


def test_a_file_of_the_same_name_gives_no_right_to_cancel(served: SpoolBox) -> None:
    """Who has a job of the same id waiting may cancel that one only."""
    drop_as(served, MEMBER, "job.yaml", "run: sleep 1000")
    served.started("job")
    drop_as(served, FELLOW, "job.yaml", "run: id -un\ndelay: 1h")
    until(lambda: "1 queued" in served.status(), "it does not wait")
    ask(served, FELLOW, "job.cancel")
    assert served.result("job.2").reason is Reason.CANCELLED
    assert served.path("running", "job").exists()
    ask(served, MEMBER, "job.cancel")
    assert served.result("job").reason is Reason.CANCELLED


def test_a_link_to_a_file_of_roots_asks_for_nothing(served: SpoolBox) -> None:
    drop_as(served, MEMBER, "job.yaml", "run: sleep 1000")
    served.started("job")
    foreign = served.scratch / "foreign"
    foreign.touch()
    os.link(foreign, served.path("control", "job.cancel"))
    served.path("control", "pause").symlink_to(foreign)
    until(lambda: not any(served.path("control").iterdir()), "they were not taken")
    assert served.path("running", "job").exists()
    served.api.request(Verb.CANCEL, "job")
    assert served.result("job").reason is Reason.CANCELLED


@pytest.mark.parametrize("name", ["pause", "job.cancel"])
def test_a_file_of_roots_that_a_user_moved_asks_for_nothing(served: SpoolBox, name: str) -> None:
    drop_as(served, FELLOW, "job.yaml", "run: sleep 1000")
    served.started("job")
    home = served.scratch / "home"
    home.mkdir()
    shutil.chown(home, MEMBER)
    (home / "backup").touch()
    with being(MEMBER, GID):
        (home / "backup").rename(served.path("control", name))
    until(lambda: "others may have moved" in served.log.read_text(), "nothing was said")
    assert "paused" not in served.status()
    assert served.path("running", "job").exists()
    served.api.request(Verb.CANCEL, "job")  # as root, by the API
    assert served.result("job").reason is Reason.CANCELLED


@pytest.mark.parametrize("name", ["pause", "resume"])
def test_no_member_stops_the_daemon(served: SpoolBox, name: str) -> None:
    ask(served, MEMBER, name)
    until(lambda: f"{name}: not done for {MEMBER}" in served.log.read_text(), "nothing was said")
    serve_others(served)


def test_nobody_retries_the_job_of_another(served: SpoolBox) -> None:
    drop_as(served, MEMBER, "job.yaml", "run: id -un; exit 1")
    served.result("job")
    ask(served, FELLOW, "job.retry")
    until(lambda: f"job: retry: not done for {FELLOW}" in served.log.read_text(), "nothing said")
    ask(served, MEMBER, "job.retry")
    again = served.result("job.2")
    assert (again.submitter, again.user) == (MEMBER, MEMBER)
    assert served.output("job.2") == f"{MEMBER}\n"
    drop_as(served, FELLOW, "other.yaml", f"run: cat {served.path('failed', 'job.2', 'job.yaml')}")
    assert served.result("other").exit_code == 1


def test_no_member_gains_priority(served: SpoolBox) -> None:
    for number, limits in enumerate(["{nice: -5}", "{io: high}"]):
        drop_as(served, MEMBER, f"job{number}.yaml", f"run: id\nlimits: {limits}")
        assert served.result(f"job{number}").reason is Reason.DENIED


def test_a_users_job_hands_on_and_tells_its_progress(served: SpoolBox) -> None:
    script = "echo a=b >> $RUNNER_OUTPUT; echo 5 x >> $RUNNER_PROGRESS; ulimit -n; id -un"
    drop_as(served, MEMBER, "job.yaml", f"run: {script}\nlimits: {{open_files: 77, nice: 3}}")
    result = served.result("job")
    assert (result.state, dict(result.outputs)) == (State.DONE, {"a": "b"})
    assert served.output("job") == f"77\n{MEMBER}\n"
