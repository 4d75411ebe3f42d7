"""redact: replace secrets in a stream of bytes by ***, however the stream was cut into pieces.

Occurrences that overlap or touch become one ***. Bytes are kept back only as long as they may be
the start of a secret, and `rest` gives what is kept when the stream has ended. Of a secret with
several lines each long line is one more secret: programs print them one by one. Pure.

Not found: a secret that was encoded, cut by other output, or reworded. This is a guard against
accidents; a job that wants to can always say what it knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

MARK = b"***"
SHORTEST = 4
"""Bytes. What is shorter is found everywhere, and hiding it would tell where it is."""
_SHORTEST_LINE = 8


def hidden(text: str, secrets: Collection[bytes]) -> str:
    """A whole text without the secrets."""
    redactor = Redactor(secrets)
    data = redactor.redact(text.encode("utf-8", "surrogateescape")) + redactor.rest()
    return data.decode("utf-8", "surrogateescape")


class Redactor:
    """One stream. `redact` each piece as it comes, then take the `rest`."""

    def __init__(self, secrets: Collection[bytes]) -> None:
        lines = (line.strip() for secret in secrets for line in secret.splitlines())
        parts = {*secrets, *(line for line in lines if len(line) >= _SHORTEST_LINE)}
        self._secrets = sorted(part for part in parts if len(part) >= SHORTEST)
        self._kept = b""  # seen, and perhaps the start of a secret
        self._covered = 0  # how much of the start of that belongs to one that was found
        self._hiding = False  # whether the last byte that left belonged to one

    def redact(self, piece: bytes) -> bytes:
        """What may leave now that this piece has come."""
        data = self._kept + piece
        return self._leave(data, self._first_open(data))

    def rest(self) -> bytes:
        """What was kept back, at the end of the stream."""
        return self._leave(self._kept, len(self._kept))

    def _leave(self, data: bytes, until: int) -> bytes:
        """Let go of the bytes before `until`; what reaches beyond it is remembered as found."""
        out = []
        at = covered = 0
        for start, end in self._found(data):
            if start >= until and (start > 0 or not self._covered):
                break  # it will be found again
            if start > at:
                out.append(data[at:start])
                self._hiding = False
            if not self._hiding:
                out.append(MARK)
            self._hiding = True
            at = min(end, until)
            covered = max(0, end - until)
        if at < until:
            out.append(data[at:until])
            self._hiding = False
        self._kept, self._covered = data[until:], covered
        return b"".join(out)

    def _found(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Where secrets stand, in order; those that overlap or touch as one."""
        spans = [(0, self._covered)] if self._covered else []
        for secret in self._secrets:
            start = data.find(secret)
            while start >= 0:
                spans.append((start, start + len(secret)))
                start = data.find(secret, start + 1)
        spans.sort()
        merged: list[tuple[int, int]] = []
        for start, end in spans:
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return iter(merged)

    def _first_open(self, data: bytes) -> int:
        """The first place from which the data to its end is the start of a secret, or its end."""
        first = len(data)
        for secret in self._secrets:
            at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
            while 0 <= at < first:
                if secret.startswith(data[at:]):
                    first = at
                    break
                at = data.find(secret[:1], at + 1)
        return first
