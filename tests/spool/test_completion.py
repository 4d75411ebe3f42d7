"""What the Tab key offers: asked through the program, and in real shells."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import manual
import pytest
from spoolbox import PATIENCE_S, SpoolBox

from runnerd.ctl import complete

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
TEMPLATE = "allow: {users: [games]}\njob: {run: 'true'}\n"


@pytest.fixture
def spool(box: SpoolBox) -> SpoolBox:
    """A spool with jobs in all states, which nobody serves."""
    box.configure(spool=box.root)
    for place in ("incoming", "running", "done", "failed", "outbox"):
        box.path(place).mkdir(parents=True)
    for name in (
        "incoming/laden",
        "done/good",
        "done/good.2",
        "failed/bad",
        "running/now",
        "running/.new",
    ):
        box.path(name).mkdir()
    for name in ("later.yaml", "latest.json", ".hidden.yaml", "README"):
        box.path("incoming", name).touch()
    box.path("outbox", f"good~{1:012}~{'a' * 12}.json").touch()
    box.template("create-vhost", TEMPLATE)
    box.template("broken", "nothing: good\n")
    return box


def environment(box: SpoolBox, **more: str) -> dict[str, str]:
    path = f"{BIN}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(box.scratch), "RUNNERD_SPOOL": str(box.root), **more}


def offered(box: SpoolBox, line: str) -> list[str]:
    """What the program offers for the last word of a line, as bash asks; silently."""
    words = shlex.split(line.removesuffix(" ")) + ([""] if line.endswith(" ") else [])
    asked = {
        "_RUNNERCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [BIN / "runnerctl"],
        env=environment(box, **asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [each.removeprefix("plain,") for each in done.stdout.split("\n") if each]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("runnerctl sh", ["show"]),
        ("runnerctl show ", ["bad", "good", "good.2", "laden", "later", "latest", "now"]),
        ("runnerctl show go", ["good", "good.2"]),
        ("runnerctl logs ", ["bad", "good", "good.2", "now"]),
        ("runnerctl wait ", ["laden", "later", "latest", "now"]),
        ("runnerctl wait now ", ["laden", "later", "latest"]),
        ("runnerctl cancel l", ["laden", "later", "latest"]),
        ("runnerctl retry ", ["bad", "good", "good.2"]),
        ("runnerctl callbacks retry ", ["good"]),
        ("runnerctl --spool /nowhere show ", []),
        ("runnerctl schema re", ["result"]),
        ("runnerctl list --state ", ["queued", "running", "done", "failed"]),
        ("runnerctl show --j", ["--json"]),
        ("runnerctl executors s", ["shell", "ssh"]),
        ("runnerctl run jo", ["file,jo"]),
        ("runnerctl validate ", ["file,"]),
        ("runnerctl submit --input x", ["file,x"]),
        ("runnerctl submit --wait x", ["file,x"]),
        ("runnerctl submit --uses create-vhost x", []),
        ("runnerctl --config ", ["file,"]),
        ("runnerctl run --keep ", ["dir,"]),
    ],
)
def test_each_verb_offers_what_it_takes(spool: SpoolBox, line: str, words: list[str]) -> None:
    assert offered(spool, line) == words


def test_templates_are_those_of_the_configuration(spool: SpoolBox) -> None:
    asked = f"runnerctl --config {spool.config_file} "
    assert offered(spool, f"{asked}submit --uses ") == ["broken", "create-vhost"]
    assert offered(spool, f"{asked}templates cr") == ["create-vhost"]
    assert offered(spool, f"{asked}show la") == ["laden", "later", "latest"]


def test_a_configuration_that_is_broken_offers_nothing_and_says_nothing(spool: SpoolBox) -> None:
    spool.config_file.write_text("slots: none\n")
    assert offered(spool, f"runnerctl --config {spool.config_file} templates ") == []
    assert offered(spool, f"runnerctl --config {spool.config_file} show ") == []
    assert offered(spool, "runnerctl --config /nowhere submit --uses ") == []


def test_of_very_many_jobs_the_common_part_is_still_right(spool: SpoolBox) -> None:
    for number in range(complete.MOST + 500):
        spool.path("done", f"invoice-{number:05}").mkdir()
    found = offered(spool, "runnerctl show inv")
    assert len(found) == complete.MOST
    assert (found[0], found[-1]) == ("invoice-00000", f"invoice-{complete.MOST + 499:05}")


def test_only_the_verb_that_is_asked_for_is_loaded(spool: SpoolBox) -> None:
    code = (
        "import sys\nfrom runnerd.ctl import main\n"
        "try: main(prog_name='runnerctl')\n"
        "finally: print(*sorted(n for n in sys.modules if n.startswith('runnerd.ctl.')))"
    )
    asked = {
        "_RUNNERCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "runnerctl cancel ",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(spool, **asked),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[-2].split() == ["runnerd.ctl.complete", "runnerd.ctl.control"]


# --- in the shells --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("completion") / "out"
    manual.make(out)
    return out / "completion"


def in_bash(box: SpoolBox, scripts: Path, line: str) -> list[str]:
    """As readline does it: the words of the line, and the function that `complete` names."""
    words = shlex.split(line.removesuffix(" ")) + ([""] if line.endswith(" ") else [])
    code = f"""
set -u
source {scripts}/bash/runnerctl
compopt() {{ echo "(compopt:$1:$2)"; }}
complete -p runnerctl
COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE={shlex.quote(line)}
_runnerctl_completion runnerctl {shlex.quote(words[-1])} {shlex.quote(words[-2])}
printf '%s\\n' ${{COMPREPLY[@]+"${{COMPREPLY[@]}}"}}
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        env=environment(box),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    first, *others = done.stdout.splitlines()
    assert first.endswith("-F _runnerctl_completion runnerctl")
    return [each for each in others if each]


def test_bash_completes(spool: SpoolBox, scripts: Path) -> None:
    assert in_bash(spool, scripts, "runnerctl show lat") == ["later", "latest"]
    assert in_bash(spool, scripts, "runnerctl schema ")[:2] == ["job", "template"]
    assert in_bash(spool, scripts, "runnerctl run x") == ["(compopt:-o:default)"]


def test_bash_is_told_nothing_when_the_program_fails(spool: SpoolBox, scripts: Path) -> None:
    broken = spool.scratch / "bin"
    broken.mkdir()
    (broken / "runnerctl").write_text("#!/bin/sh\necho 'Traceback: it is broken' >&2\nexit 1\n")
    (broken / "runnerctl").chmod(0o755)
    code = f"source {scripts}/bash/runnerctl\n_runnerctl_completion runnerctl x runnerctl"
    env = environment(spool, PATH=f"{broken}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", code], env=env, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_tab_key_completes_in_an_interactive_bash(spool: SpoolBox, scripts: Path) -> None:
    """A terminal, a prompt, and somebody who presses Tab and Return."""
    rc = spool.scratch / "rc"
    rc.write_text(f"source {scripts}/bash/runnerctl\nPS1={PROMPT!r}\n")
    argv = ["bash", "--noprofile", "--rcfile", str(rc), "-i"]
    assert COMPLETED in typed(spool, argv)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_the_tab_key_completes_in_zsh(spool: SpoolBox, scripts: Path) -> None:
    """With the function loaded from fpath at its first use, as a package installs it."""
    lines = [f"fpath=({scripts}/zsh $fpath)", "autoload -Uz compinit && compinit -u -D"]
    (spool.scratch / ".zshrc").write_text("\n".join([*lines, f"PS1={PROMPT!r}\n"]))
    assert COMPLETED in typed(spool, ["zsh", "-d", "-i"])


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_completes(spool: SpoolBox, scripts: Path) -> None:
    code = f"source {scripts}/fish/runnerctl.fish; complete --do-complete 'runnerctl show lat'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        env=environment(spool),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["later", "latest"]


# The job has no result, and the program says so when it is run: with the whole id.
PROMPT, KEYS, COMPLETED = "ready> ", "runnerctl show b\t; exit\r", "/failed/bad/result.json: "


def typed(box: SpoolBox, argv: list[str]) -> str:
    """What a terminal shows when the keys are pressed at the prompt."""
    ours, theirs = pty.openpty()
    written, keys = b"", KEYS.encode()
    with subprocess.Popen(
        argv,
        env=environment(box, TERM="dumb", ZDOTDIR=str(box.scratch), HISTFILE=""),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        while select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # EIO: the shell has ended
                break
            if keys and PROMPT.encode() in written:
                os.write(ours, keys)
                keys = b""
        shell.kill()
    os.close(ours)
    return written.decode()
