"""engine: whether a container engine answers, at the address that the daemon would use."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from .findings import CannotTell

USUAL = "unix:///var/run/docker.sock"
_PATIENCE_S = 3.0


class _Local(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self._path)


def address_for(pid: int | None) -> Mapping[str, str]:
    """What the environment of a process, or ours, says of the engine. Raises PermissionError."""
    if pid is None:
        return {name: os.environ[name] for name in os.environ if name.startswith("DOCKER_")}
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(each).partition("=") for each in entries)
    return {name: value for name, _, value in pairs if name.startswith("DOCKER_")}


def why_not(env: Mapping[str, str]) -> str | None:
    """Why the engine cannot be used, or None if it answers. Raises PermissionError, CannotTell."""
    address = urlsplit(env.get("DOCKER_HOST") or USUAL)
    if address.scheme in ("unix", "http+unix"):
        connection: HTTPConnection = _Local(address.path)
    elif address.scheme in ("tcp", "http") and address.hostname:
        if env.get("DOCKER_TLS_VERIFY"):
            return _reach(address.hostname, address.port or 2376)
        connection = HTTPConnection(address.hostname, address.port or 2375, timeout=_PATIENCE_S)
    else:
        raise CannotTell(f"an engine by {address.scheme} is not looked at")
    try:
        connection.request("GET", "/_ping")
        answer = connection.getresponse()
    except PermissionError:
        raise
    except OSError as error:
        return error.strerror or str(error)
    except HTTPException as error:
        return f"it answers with no HTTP: {error}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"it answers with {answer.status} {answer.reason}"


def _reach(host: str, port: int) -> str | None:
    """Whether anybody listens there: who we are, only the daemon's certificates say."""
    try:
        socket.create_connection((host, port), _PATIENCE_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
