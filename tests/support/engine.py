"""A real Docker engine of the tests' own: dockerd in a directory of its own, with one image.

No registry, no bridge and no firewall rule is needed. The image `box:1` is a static busybox.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import psutil
from spoolbox import PATIENCE_S, until

IMAGE = "box:1"
APPLETS = (
    *("sh", "cat", "id", "ls", "sleep", "true", "false", "dd", "head", "yes", "touch", "env"),
    *("echo", "grep", "mkdir", "rm", "ln", "chmod", "seq", "tail"),
)


def missing() -> str | None:
    """What an engine needs and this machine does not have."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("dockerd", "busybox"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    return None


class Engine:
    """One dockerd. It can be killed, stopped and started again."""

    def __init__(self) -> None:
        # Not below a test's directory: the path of a socket has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="engine-"))
        self.socket = self.directory / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
            with self.client() as client:
                client.import_image_from_data(root_file_system(), repository="box", tag="1")
        except BaseException:
            self.close()
            raise

    @property
    def host(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.socket}"

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        client = docker.APIClient(base_url=self.host, timeout=PATIENCE_S)
        try:
            yield client
        finally:
            client.close()

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=TERM"),  # should the tests be killed
                    *("dockerd", "--iptables=false", "--bridge=none", "--host", self.host),
                    *("--data-root", str(self.directory / "data")),
                    *("--exec-root", str(self.directory / "exec")),
                    *("--pidfile", str(self.directory / "pid")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers, f"dockerd does not start: {self.log}")

    def _answers(self) -> bool:
        # Not by the package: a client that cannot connect leaves its sockets open.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE_S)
            asking.connect(str(self.socket))
            asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in asking.recv(4096)
        return False

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()[-2000:]

    def kill(self) -> None:
        """The engine dies on the spot; containers go on, and nobody knows of them."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The engine takes requests, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def unknowing(self) -> Iterator[str]:
        """Another way to the engine, on which it knows neither of a process nor why one died.

        So it is with a container that is killed in its first moments.
        """
        path = self.directory / "unknowing.sock"
        with _Unknowing(str(path), self.socket) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"unix://{path}"
            finally:
                server.shutdown()
                path.unlink()

    def containers(self) -> list[dict[str, Any]]:
        """All there are, whatever their state."""
        with self.client() as client:
            found: list[dict[str, Any]] = client.containers(all=True)
        return found

    def told(self) -> dict[str, Any]:
        """All that the engine knows of the one container."""
        (container,) = self.containers()
        with self.client() as client:
            found: dict[str, Any] = client.inspect_container(container["Id"])
        return found

    def is_empty(self) -> bool:
        return not self.containers()

    def forget(self, image: str) -> None:
        """Remove an image, if it is there."""
        with self.client() as client, contextlib.suppress(docker.errors.ImageNotFound):
            client.remove_image(image, force=True)

    def close(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        for process in psutil.process_iter():  # what a killed engine has left of its helpers
            with contextlib.suppress(psutil.Error):
                if any(str(self.directory) in word for word in process.cmdline()):
                    process.kill()
        for mount in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            point = mount.split()[1]
            if point.startswith(str(self.directory)):
                subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self.directory)


class _Unknowing(socketserver.ThreadingUnixStreamServer):
    """Passes all on, but for what the engine knows of how a container ended."""

    daemon_threads = True

    def __init__(self, path: str, engine: Path) -> None:
        super().__init__(path, _PassOn)
        self.engine = engine


class _PassOn(socketserver.BaseRequestHandler):
    server: _Unknowing

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(str(self.server.engine))
            asks = threading.Thread(target=self._move, args=(self.request, engine), daemon=True)
            asks.start()
            self._move(engine, self.request)
            asks.join()

    def _move(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has closed
            while data := source.recv(1 << 20):
                # As long as before, for the length was told already.
                data = data.replace(b'"OOMKilled":true', b'"OOMKilled":null')
                data = re.sub(rb'"Pid":(\d+)', lambda it: b'"Pid":' + b"0".rjust(len(it[1])), data)
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


def root_file_system(mark: str = "") -> bytes:
    """A tar archive with a shell and a few commands. Another mark makes another layer."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "tmp", *filter(None, [mark])):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        tar.add(busybox, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()
