"""vm: a whole machine, emulated by QEMU. Killing QEMU is how its power is cut."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from debian import Disk

PROGRAM = "qemu-system-x86_64"
# Emulated, as a stock kernel does not run under every host's KVM; so it is the same everywhere.
_MACHINE = "-accel tcg,thread=multi -cpu max -M pc -m 1024 -smp 2 -device virtio-rng-pci"
_QUIET = "-nodefaults -no-user-config -display none -no-reboot"
_KERNEL = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off tsc=unstable net.ifnames=0"


def boot(
    disk: Disk, *, init: str, project: Path, drives: Sequence[str], console: Path, wire: Path
) -> subprocess.Popen[bytes]:
    """Turn it on: `init` is its first program, the file system in `project` is mounted on /mnt.

    `drives`: what QEMU calls the files of further disks, /dev/vdc and so on. `console` and `wire`
    get what is written to /dev/ttyS0 and /dev/ttyS1, before the machine goes on.
    """
    names = ",".join(f"/dev/vd{letter}" for letter in "bcdef"[: 1 + len(drives)])
    kernel = f"{_KERNEL} runnerd_init={init} runnerd_disks={names}"
    every = [f"file={each},format=raw,snapshot=on,cache=unsafe" for each in (disk.root, project)]
    every += [f"file={each},format=raw,cache=writeback" for each in drives]
    command = [PROGRAM, *_MACHINE.split(), *_QUIET.split()]
    command += ["-kernel", str(disk.kernel), "-initrd", str(disk.initrd), "-append", kernel]
    command += ["-serial", f"file:{console}", "-serial", f"file:{wire}"]
    for each in every:
        command += ["-drive", f"{each},if=virtio"]
    with console.with_suffix(".qemu").open("wb") as errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
