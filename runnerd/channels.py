"""channels: the ways by which an event leaves this machine, or this program. For the carrier.

Built in are HTTP (`carrier`), `command` and `unix`. Other Python packages bring more, by the entry
point group `runnerd.callbacks`: a class, made without arguments, with this one method, which
returns when the event is delivered and raises anything if it is to be tried again:

    def deliver(self, event: str, options: Mapping[str, str], timeout_s: float) -> None

`event` is a CloudEvent as JSON, in one line; `options` are those of the channel in the
configuration. It is called from several threads, with the rights of `callbacks.user`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from . import entrypoints
from .entrypoints import FOREIGN, Unusable, worded
from .settings import Channel
from .webhook import Answer

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "runnerd.callbacks"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Plugin(Protocol):
    """A way to tell events."""

    def deliver(self, event: str, options: Mapping[str, str], timeout_s: float) -> None:
        """Deliver, or raise."""


def load() -> tuple[dict[str, Plugin], dict[str, str]]:
    """The plugins by name, and why others are left out."""
    return entrypoints.load(GROUP, ("command", "unix", "http", "https"), _load)


def _load(point: EntryPoint) -> Plugin:
    if point.name in ("command", "unix", "http", "https"):
        raise Unusable(f"{point.value} has the name of a built-in channel")

    def check(plugin: Any) -> None:
        if not callable(getattr(plugin, "deliver", None)):
            raise Unusable(f"{type(plugin).__qualname__} has no method `deliver`")

    plugin: Plugin = entrypoints.made(point, check)
    return plugin


def by_channel(
    channel: Channel, body: str, timeout_s: float, plugins: Mapping[str, Plugin]
) -> Answer:
    """Tell an event by a channel of the configuration."""
    if channel.command is not None:
        return by_command(channel.command, body, timeout_s)
    if channel.unix is not None:
        return by_socket(channel.unix, body, timeout_s)
    plugin = plugins.get(channel.plugin or "")
    if plugin is None:
        return Answer(down=True, why=f"the channel plugin {channel.plugin} cannot be used here")
    try:
        plugin.deliver(body, channel.options, timeout_s)
    except FOREIGN as error:
        return Answer(why=f"the channel plugin {channel.plugin} failed: {worded(error)}")
    return Answer(delivered=True)


def by_command(command: tuple[str, ...], body: str, timeout_s: float) -> Answer:
    """Run a program with the event on its standard input. What it prints goes nowhere."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return Answer(down=True, why=f"{command[0]} cannot be started: {error.strerror}")
    try:
        process.communicate(f"{body}\n".encode(), timeout_s)
    except subprocess.TimeoutExpired:
        return Answer(why=f"{command[0]} took longer than {timeout_s:g} s")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == 0:
        return Answer(delivered=True)
    return Answer(why=f"{command[0]} exited with status {process.returncode}")


def by_socket(path: str, body: str, timeout_s: float) -> Answer:
    """Send the event as a line to a stream socket. That it was taken is all that can be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
            sock.sendall(f"{body}\n".encode())
        except OSError as error:
            return Answer(down=True, why=f"{path}: {error.strerror or error}")
    return Answer(delivered=True)
