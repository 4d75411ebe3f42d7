"""guest: the first program of a machine whose power will be cut. Works, and tells it on a wire.

    python3 guest.py HERE SEED [MUTANT]

HERE is the same path as outside, for paths are in what is recorded. What is on the wire has left
the machine, so only that counts as acknowledged. Lines of our own and of the daemon's log follow on
it as they are written; what a job did is written to it by the job.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).parents[2]
WIRE = Path("/dev/ttyS1")
MOUNTS = {"/proc": "proc", "/sys": "sysfs", "/dev/shm": "tmpfs", "/tmp": "tmpfs"}  # noqa: S108
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests/support"), str(PROJECT / "tests/power")]


def main(here: Path, seed: int, mutant: str | None) -> None:
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["PYTHONPATH"] = str(PROJECT)
    for place, kind in MOUNTS.items():
        Path(place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", kind, kind, place], check=True)
    Path("/dev/fd").symlink_to("/proc/self/fd")
    subprocess.run(["stty", "-F", str(WIRE), "raw", "-echo"], check=True)
    acks, mount = here / "acks", here / "mnt"
    mount.mkdir(parents=True)
    acks.touch()
    (here / "wire").symlink_to(WIRE)
    subprocess.run(["mount", "-o", "noatime", "/dev/vdc", str(mount)], check=True)
    if os.fork() == 0:
        tell(acks)
    from workload import Workload  # noqa: PLC0415  # its imports want what was mounted here

    Workload(acks, seed, mutant)(mount)
    print("all is done", flush=True)
    while True:
        time.sleep(60)


def tell(acks: Path) -> None:
    """Copy whole lines to the wire, but those that the jobs have written there themselves."""
    with acks.open("rb") as read, WIRE.open("wb", buffering=0) as wire:
        rest = b""
        while True:
            rest += read.read()
            *lines, rest = rest.split(b"\n")
            wire.write(b"".join(each + b"\n" for each in lines if not each.startswith(b"worked ")))
            time.sleep(0.005)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
