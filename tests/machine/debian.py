"""debian: a Debian of the project's own, as a directory to boot in a container or a disk to boot.

Made from Debian's packages with mmdebstrap, once for each release and kept below the user's cache.
It holds what runnerd needs of Debian's own Python packages, systemd, and the cloud kernel. Needs
root.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RELEASES = ("bookworm", "trixie")
_MODULES = ("virtio_pci", "virtio_blk", "ext4", "xfs", "virtio_rng")
_PYTHON = "click docker jsonschema psutil requests rich sdnotify strictyaml watchdog yaml"
PACKAGES = (
    *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "udev", "kmod", "procps"),
    *("e2fsprogs", "busybox-static"),
    *("python3", *(f"python3-{each}" for each in _PYTHON.split())),
)
_MASKED = ("systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer")
_ROOT_SIZE = 3 << 30
# No udev, no waiting: the modules that it takes to mount the disk, in the order of their needs.
_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /dev /r; $b mount -t devtmpfs d /dev; $b mount -t proc p /proc
for f in /modules/*; do $b insmod $f; done
for d in /dev/vda $(echo $runnerd_disks | $b tr , " "); do
    i=0; while [ ! -b $d ] && [ $i -lt 100 ]; do $b sleep 0.1; i=$((i+1)); done
done
$b mount -t ext4 -o rw,noatime /dev/vda /r || $b poweroff -f
$b mount -o move /dev /r/dev
[ -z "$runnerd_disks" ] || $b mount -t ext4 -o ro /r/dev/vdb /r/mnt || $b poweroff -f
$b umount /proc
exec $b switch_root /r "${runnerd_init:-/sbin/init}"
"""


@dataclass(frozen=True, slots=True)
class Disk:
    """What QEMU needs: a kernel, its first file system, and the root disk."""

    kernel: Path
    initrd: Path
    root: Path


def missing(*programs: str) -> list[str]:
    """What this machine lacks to make one and for these programs, in words."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    needed = ("mmdebstrap", "dpkg-deb", "depmod", "modprobe", "mke2fs", "cpio", *programs)
    return lacks + [f"the program {each}" for each in needed if shutil.which(each) is None]


def tree(release: str) -> Path:
    """The directory with the whole system. Nobody may change it: boot it below an overlay."""
    return _made(release, "tree", _make_tree, (PACKAGES, _MASKED))


def disk(release: str) -> Disk:
    """The same as a disk; to be used as a snapshot."""
    found = _made(release, "disk", _make_disk, (PACKAGES, _MODULES, _INIT, _ROOT_SIZE))
    return Disk(found / "kernel", found / "initrd", found / "root.img")


def _made(
    release: str, what: str, make: Callable[[str, Path], None], recipe: tuple[object, ...]
) -> Path:
    """Make it, if it is not there already, made after this recipe."""
    made_after = hashlib.sha256(repr(recipe).encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runnerd-machine"
    home.mkdir(parents=True, exist_ok=True)
    found = home / f"{release}-{what}-{made_after[:12]}"
    with locked(home / f".{release}-{what}.lock"):
        if not found.exists():
            for old in home.glob(f"{release}-{what}-*"):
                shutil.rmtree(old)
            new = home / f".{found.name}"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make(release, new)
            new.rename(found)
    return found


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_tree(release: str, new: Path) -> None:
    fetch_kernel = (
        "cd /boot && apt-get -qq -o APT::Sandbox::User=root download $(apt-cache depends"
        " linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image[^ ]*\\)/\\1/p')"
    )
    unwanted = ("man", "locale", "doc")
    _run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in unwanted),
        f'--customize-hook=chroot "$1" sh -c "{fetch_kernel.replace("$", chr(92) + "$")}"',
        *(release, str(new), _mirror()),
    )
    for unit in _MASKED:
        (new / "etc/systemd/system" / unit).symlink_to("/dev/null")


def _mirror() -> str:
    """Where this machine's own apt has its packages from."""
    listed = _run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    ).split()
    return next(each for each in listed if "security" not in each)


def _make_disk(release: str, new: Path) -> None:
    system = tree(release)
    (package,) = (system / "boot").glob("*.deb")
    with tempfile.TemporaryDirectory(dir=new) as scratch:
        unpacked = Path(scratch) / "kernel"
        _run("dpkg-deb", "-x", str(package), str(unpacked))
        (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
        version = kernel.name.removeprefix("vmlinuz-")
        shutil.copy(kernel, new / "kernel")
        if not (unpacked / "lib").exists():  # /usr is merged
            (unpacked / "lib").symlink_to("usr/lib")
        _run("depmod", "-b", str(unpacked), version)
        _make_initrd(system, unpacked, version, Path(scratch) / "initrd", new / "initrd")
        copy = Path(scratch) / "root"
        _run("cp", "-a", "--reflink=auto", str(system), str(copy))
        for each in (copy / "boot").iterdir():
            each.unlink()
        (copy / "etc/fstab").write_text("/dev/vda / ext4 rw,noatime 0 0\n")
        root = new / "root.img"
        with root.open("wb") as file:
            file.truncate(_ROOT_SIZE)
        _run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(copy), str(root))


def _make_initrd(system: Path, unpacked: Path, version: str, scratch: Path, initrd: Path) -> None:
    (scratch / "bin").mkdir(parents=True)
    (scratch / "modules").mkdir()
    shutil.copy(system / "bin/busybox", scratch / "bin/busybox")
    (scratch / "init").write_text(_INIT)
    (scratch / "init").chmod(0o755)
    needed = dict.fromkeys(
        Path(line.split()[1])
        for module in _MODULES
        for line in _run(
            *("modprobe", "-d", str(unpacked), "-S", version, "--show-depends", module)
        ).splitlines()
        if line.startswith("insmod")
    )
    for number, module in enumerate(needed):
        data = module.read_bytes()
        data = lzma.decompress(data) if module.suffix == ".xz" else data
        (scratch / "modules" / f"{number:02}.ko").write_bytes(data)
    with initrd.open("wb") as file:
        subprocess.run(
            ["sh", "-c", "find . | cpio --quiet -o -H newc"], cwd=scratch, stdout=file, check=True
        )


def _run(*command: str) -> str:
    """Run a program; what it printed. Raises OSError with its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{command[0]}: {done.stderr.strip()[-2000:] or done.stdout.strip()}")
    return done.stdout
