"""errand: a runner that does something else than jobs: it is sent once, may answer, and ends."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from typing import Generic, TypeVar

from . import messages

Answer = TypeVar("Answer", bound=messages.Message)


class Errand(Generic[Answer]):
    """At most one at a time. `on_end` is called with what went wrong, or None after an answer."""

    def __init__(
        self,
        spawn: Callable[[], socket.socket],
        selector: selectors.BaseSelector,
        kind: type[Answer],
        on_answer: Callable[[Answer], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self._spawn = spawn
        self._selector = selector
        self._kind = kind
        self._on_answer = on_answer
        self._on_end = on_end
        self._sock: socket.socket | None = None
        self._answered = False

    @property
    def goes_on(self) -> bool:
        return self._sock is not None

    def send(self, order: messages.Message) -> None:
        """Have a runner do this."""
        self._answered = False
        try:
            self._sock = self._spawn()
            messages.send(self._sock, order)
        except OSError as error:
            self.close()
            self._on_end(str(error))
        else:
            self._selector.register(self._sock, selectors.EVENT_READ, self._hear)

    def close(self) -> None:
        """Let the runner go."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _hear(self) -> None:
        assert self._sock is not None
        try:
            message, _ = messages.receive(self._sock)
        except (OSError, ValueError):
            message = None
        if isinstance(message, self._kind):
            self._answered = True
            self._on_answer(message)
            return
        self._selector.unregister(self._sock)
        self.close()
        self._on_end(None if self._answered else "the process that was to do it has died")
