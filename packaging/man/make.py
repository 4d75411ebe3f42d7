"""make OUTDIR: the manual pages, and the completion of runnerctl for bash, zsh and fish.

A page is written by hand, in man(7), as NAME.SECTION.in beside this file. In it

    .\\" @fields job      is replaced by what a piece (pieces.py) makes of the declarations
    .EX KIND ... .EE     holds an example as it is: nothing in it has to be escaped
    @version@, @date@    are replaced wherever they stand
"""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from click.shell_completion import get_completion_class
from pieces import PIECES
from roff import literal

from runnerd import __version__
from runnerd.ctl import main as runnerctl

HERE = Path(__file__).parent
PLACES = {"bash": "bash/runnerctl", "zsh": "zsh/_runnerctl", "fish": "fish/runnerctl.fish"}
_PIECE = re.compile(r'\.\\" @(\w+) ?(.*)')
_EXAMPLE = re.compile(r"\.EX \S+")


def page(source: str, date: str) -> str:
    """A page as man(1) takes it."""
    made: list[str] = []
    is_example = False
    for line in source.replace("@version@", __version__).replace("@date@", date).splitlines():
        piece = _PIECE.fullmatch(line)
        if _EXAMPLE.fullmatch(line):
            is_example = True
            made.append(".EX")
        elif line == ".EE":
            is_example = False
            made.append(line)
        elif is_example:
            made.append(literal(line))
        elif piece is not None:
            made += PIECES[piece[1]](*piece[2].split())
        else:
            made.append(line)
    return "\n".join(made) + "\n"


def date_of(epoch: str | None) -> str:
    return "" if epoch is None else datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%d")


def completion(shell: str) -> str:
    """The script that click makes: it asks runnerctl, and here it is silent when that fails."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(runnerctl, {}, "runnerctl", "_RUNNERCTL_COMPLETE").source()
    script, asked = re.subn(r"( (?:\$1|runnerctl))\)", r"\1 2>/dev/null)", script)
    assert asked == 1, f"click's script for {shell} has changed"
    if shell == "zsh" and "loadautofunc" not in script:  # click before 8.1.4
        script = script.replace(
            "compdef _runnerctl_completion runnerctl;",
            'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n    _runnerctl_completion "$@"\n'
            "else\n    compdef _runnerctl_completion runnerctl\nfi",
        )
    return script.rstrip("\n") + "\n"


def write(out: Path) -> None:
    date = date_of(os.environ.get("SOURCE_DATE_EPOCH"))
    for source in sorted(HERE.glob("*.in")):
        target = out / "man" / source.stem
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(source.read_text("ascii"), date), "ascii")
    for shell, place in PLACES.items():
        target = out / "completion" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(completion(shell), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
