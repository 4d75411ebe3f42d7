"""Fuzz every reader of files that strangers write, guided by coverage.

    pip install atheris; python tests/fuzz --minutes 10

Starts from the bad files of the tests and from what is good. A finding is printed with its
traceback, and the file that shows it is left in the working directory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
with atheris.instrument_imports(include=["runnerd"]):
    import anyfile
    from badfiles import cases

GOOD = (
    b"name: N\nrun: |\n  a\n  b\nenv: {A: b}\ntimeout: 10m\nlabels: {a/b: c}\nuser: root\n",
    b'{"command": ["a", "b\\ud83d\\ude00"], "secrets": {"A": "smtp"}, "on_duplicate": "reject"}',
    b"uses: site\nwith:\n  domain: example.org\n  title: 'a b'\n",
    anyfile.SITE,
)


def one(data: bytes) -> None:
    """The first byte says which kind of file the others are."""
    if data:
        anyfile.insist(anyfile.FILES[data[0] % len(anyfile.FILES)], data[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as corpus:
        seeds = [*GOOD, *(case.data for case in cases())]
        for index, seed in enumerate(seeds):
            for kind in range(len(anyfile.FILES)):
                Path(corpus, f"{index}-{kind}").write_bytes(bytes([kind]) + seed)
        options = [f"-max_total_time={int(minutes * 60)}", "-timeout=5", "-max_len=4096"]
        atheris.Setup([sys.argv[0], *options, corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
