"""engine: what we ask of a container engine, over its API: Docker's, or Podman's compatible one.

Which one, the environment says (DOCKER_HOST and its kin), or it is Docker's usual socket. This is
the one module that knows the package `docker`, in the version of Debian 12 and in newer ones.

Errors: EngineTrouble with a sentence for people, whatever the package raised. Every call is
        bounded by the timeout of the connection; reading what an image's fetching tells is not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import docker
import docker.errors
import docker.utils
import requests.exceptions
import urllib3.exceptions

from runnerd.errors import NotStartable
from runnerd.frozen import frozen

USUAL = "unix:///var/run/docker.sock"
_INITS = ('"docker-init"', "container-init binary")  # as Docker and Podman complain of theirs
# What runtimes put before the reason, as a chain of their own parts.
_CHAIN = re.compile(r".*(starting container process caused|start container process): ", re.DOTALL)


class EngineTrouble(NotStartable):
    """The engine could not do what it was asked for, or could not be asked."""


class ImageMissing(EngineTrouble):
    """The image is not on this machine."""


class NoInit(EngineTrouble):
    """The engine has no program to be process 1 beside the one that it is to start."""


class NameTaken(EngineTrouble):
    """There is a container of this name."""


class Gone(EngineTrouble):
    """There is no such container, or it is being removed already."""


@frozen(kw_only=True)
class State:
    """A container as the engine sees it. `pid`: of its main process, if it runs."""

    id: str
    running: bool
    pid: int | None
    exit_code: int
    out_of_memory: bool
    held: Mapping[str, Any]


class Engine:
    """A connection. Not to be shared between processes.

    `version`: of the interface, as an earlier connection found it; else the engine is asked.
    """

    def __init__(self, *, timeout_s: float, version: str | None = None) -> None:
        with _worded():
            found = docker.utils.kwargs_from_env()
            self.address = found.setdefault("base_url", USUAL)
            self._client: Any = docker.APIClient(
                version=version or "auto", timeout=timeout_s, **found
            )

    @property
    def version(self) -> str:
        return str(self._client.api_version)

    def close(self) -> None:
        self._client.close()

    def pull(
        self, image: str, platform: str | None, login: Mapping[str, str]
    ) -> Iterator[Mapping[str, Any]]:
        """Fetch an image; what the engine tells of it, piece by piece, as it comes."""
        name, tag = docker.utils.parse_repository_tag(image)
        # An empty login keeps the package from using one of whoever we run as.
        with _worded():
            yield from self._client.pull(
                name,
                tag=tag or "latest",
                stream=True,
                decode=True,
                platform=platform,
                auth_config=dict(login),
            )

    def create(self, name: str, body: Mapping[str, Any], platform: str | None) -> Sequence[str]:
        """Make a container; what the engine warns of."""
        # Not create_container_from_config: before version 6 it knows no platform.
        client, where = self._client, {"name": name}
        if platform is not None:
            where["platform"] = platform
        with _worded():
            url = client._url("/containers/create")  # noqa: SLF001
            answer = client._post(  # noqa: SLF001
                url,
                data=json.dumps(body),
                params=where,
                headers={"Content-Type": "application/json"},
            )
            made = client._result(answer, json=True)  # noqa: SLF001
        warnings: Sequence[str] = made.get("Warnings") or ()
        return warnings

    def attach(self, container: str) -> Any:
        """Its output from now on, in frames: a stream with a descriptor, to be kept and closed."""
        with _worded():
            wanted = {"stdout": 1, "stderr": 1, "stream": 1}
            return self._client.attach_socket(container, params=wanted)

    def start(self, container: str) -> None:
        with _worded():
            self._client.start(container)

    def state(self, container: str) -> State:
        with _worded():
            told = self._client.inspect_container(container)
        state = told["State"]
        return State(
            id=str(told["Id"]),
            running=bool(state.get("Running")),
            pid=state.get("Pid") or None,
            exit_code=int(state.get("ExitCode") or 0),
            out_of_memory=bool(state.get("OOMKilled")),
            held=told.get("HostConfig") or {},
        )

    def mounts(self, container: str) -> Mapping[str, str]:
        """What is mounted into a container: paths of this engine's machine by the container's."""
        with _worded():
            told = self._client.inspect_container(container)
        return {each["Destination"]: each["Source"] for each in told.get("Mounts") or ()}

    def kill(self, container: str, number: int) -> None:
        """Send its main process a signal. Nothing if it has ended."""
        with contextlib.suppress(Gone), _worded():
            self._client.kill(container, signal=int(number))

    def remove(self, container: str) -> None:
        """End and remove it, and what it alone has kept. Nothing if it is gone."""
        with contextlib.suppress(Gone), _worded():
            self._client.remove_container(container, v=True, force=True)

    def remove_all(
        self, labels: Mapping[str, str], but: Callable[[Mapping[str, str]], bool] = lambda _: False
    ) -> int:
        """Remove the containers that have these labels, but for some; how many there were."""
        wanted = [f"{name}={value}" for name, value in labels.items()]
        with _worded():
            found = self._client.containers(all=True, filters={"label": wanted})
        found = [each for each in found if not but(each.get("Labels") or {})]
        for each in found:
            self.remove(each["Id"])
        return len(found)


class Frames:
    """What comes over an attached stream: pieces of output, each behind a head with its size."""

    _HEAD = struct.Struct(">B3xI")  # the stream it was written to, and the size

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0

    def opened(self, data: bytes) -> Iterator[memoryview]:
        """The output in the next bytes of the stream, wherever they begin and end."""
        view = memoryview(data)
        while view:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                self._left -= len(piece)
                yield piece
                continue
            wanted = self._HEAD.size - len(self._head)
            self._head += view[:wanted]
            view = view[wanted:]
            if len(self._head) == self._HEAD.size:
                self._left = self._HEAD.unpack(self._head)[1]
                self._head.clear()


def address() -> str:
    """Where the engine is to be found, for people."""
    return os.environ.get("DOCKER_HOST") or USUAL


@contextlib.contextmanager
def _worded() -> Iterator[None]:
    """What the package raises, as a sentence."""
    try:
        yield
    except docker.errors.APIError as error:
        raise _answered(error) from None
    except docker.errors.DockerException as error:
        raise EngineTrouble(_unreached(error)) from None
    except (
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        ValueError,
    ) as error:
        raise EngineTrouble(_unreached(error)) from None


def _answered(error: docker.errors.APIError) -> EngineTrouble:
    status = error.response.status_code if error.response is not None else 0
    words = str(error.explanation or error).strip().removesuffix(": unknown")
    words = _CHAIN.sub("", words)
    if any(name in words for name in _INITS):
        return NoInit(words)
    if isinstance(error, docker.errors.ImageNotFound):
        return ImageMissing(words)
    if status == 409 and "in use" in words:
        return NameTaken(words)
    if status == 404 or (status == 409 and ("not running" in words or "in progress" in words)):
        return Gone(words)
    return EngineTrouble(words)


def _unreached(error: Exception) -> str:
    """The innermost reason: each library on the way has wrapped the one below."""
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    words = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    timed_out = isinstance(inner, TimeoutError) or "timed out" in words
    why = "it did not answer in time" if timed_out else words
    return f"the container engine at {address()} cannot be used: {why}"
