"""writelog: from the log of a disk to what a power cut may leave of it. Pure, but for the files.

A cut before entry N leaves everything that was flushed before, and of the writes since then, in
units of 4096 bytes: none, all, or some in any combination. (512 would tear the superblocks of ext4,
which then does not mount: disks write their own sectors whole, and nowadays these are larger.)
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

HEADER = struct.Struct("<BxxxIQQ")  # as in volatile
WRITE, FLUSH = 1, 2
UNIT = 4096


@dataclass(frozen=True, slots=True)
class Entry:
    """One request to the disk. `acks`: the bytes of acknowledgements given before it."""

    flush: bool
    offset: int
    data: bytes
    acks: int


class Kept(StrEnum):
    """Which of the writes that were not flushed a cut leaves on disk."""

    NONE = "none"
    ALL = "all"
    SOME = "some"


@dataclass(frozen=True, slots=True, order=True)
class Cut:
    """A power cut before an entry. `seed` chooses where `some` are kept."""

    entry: int
    kept: Kept
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.entry}:{self.kept}:{self.seed}"


def cut_of(text: str) -> Cut:
    """ENTRY:KIND:SEED -> Cut. Raises ValueError."""
    entry, kept, seed = text.split(":")
    return Cut(int(entry), Kept(kept), int(seed))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a write that a disk may keep or lose by itself."""

    unit: int
    start: int
    data: bytes


@dataclass(slots=True)
class Image:
    """The content of a disk: its units that are not all zero."""

    size: int
    units: dict[int, bytes] = field(default_factory=dict)

    def put(self, piece: Piece) -> None:
        old = self.units.get(piece.unit, bytes(UNIT))
        end = piece.start + len(piece.data)
        self.units[piece.unit] = old[: piece.start] + piece.data + old[end:]

    def with_pieces(self, pieces: Sequence[Piece]) -> Image:
        """The same with these written, in this order."""
        image = Image(self.size, dict(self.units))
        for piece in pieces:
            image.put(piece)
        return image

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(self.size)
            for unit, data in self.units.items():
                os.pwrite(file.fileno(), data, unit * UNIT)


def load_image(path: Path) -> Image:
    """Read a disk's file."""
    size = path.stat().st_size
    image, zeros = Image(size), bytes(UNIT)
    with path.open("rb") as file:
        for unit in range(size // UNIT):
            data = file.read(UNIT)
            if data != zeros:
                image.units[unit] = data
    return image


def load_log(path: Path) -> list[Entry]:
    """Read what the plugin wrote. A record that is not whole was never answered: it is left out."""
    raw, at, found = path.read_bytes(), 0, []
    while at + HEADER.size <= len(raw):
        kind, length, offset, acks = HEADER.unpack_from(raw, at)
        at += HEADER.size
        if at + length > len(raw):
            break
        found.append(Entry(kind == FLUSH, offset, raw[at : at + length], acks))
        at += length
    return found


def save_log(entries: Sequence[Entry], path: Path) -> None:
    with path.open("wb") as file:
        for each in entries:
            kind = FLUSH if each.flush else WRITE
            file.write(HEADER.pack(kind, len(each.data), each.offset, each.acks) + each.data)


def pieces_of(entry: Entry) -> Iterator[Piece]:
    at = 0
    while at < len(entry.data):
        unit, start = divmod(entry.offset + at, UNIT)
        data = entry.data[at : at + UNIT - start]
        yield Piece(unit, start, data)
        at += len(data)


def cuts_between(entries: Sequence[Entry], first: int, last: int, randoms: int = 2) -> list[Cut]:
    """Every cut before one of these entries; of those that leave the same, one."""
    cuts, before = [], None
    flushed, is_open = 0, False
    for index in range(len(entries) + 1):
        acks = entries[index].acks if index < len(entries) else None
        if first <= index <= last:
            if before != (flushed, acks):
                cuts.append(Cut(index, Kept.NONE))
            if is_open:
                cuts.append(Cut(index, Kept.ALL))
                cuts += [Cut(index, Kept.SOME, seed) for seed in range(1, randoms + 1)]
            before = flushed, acks
        if index < len(entries):
            is_open = not entries[index].flush
            flushed += entries[index].flush
    return cuts


def disks_after(
    base: Image, entries: Sequence[Entry], cuts: Sequence[Cut]
) -> Iterator[tuple[Cut, Image]]:
    """What each cut leaves, in the order of the log."""
    wanted: dict[int, list[Cut]] = {}
    for cut in sorted(cuts):
        wanted.setdefault(cut.entry, []).append(cut)
    stable, since = base.with_pieces(()), list[Piece]()
    for index in range(len(entries) + 1):
        for cut in wanted.get(index, ()):
            yield cut, stable.with_pieces(_kept(cut, since))
        if index < len(entries):
            since += pieces_of(entries[index])
            if entries[index].flush:
                for piece in since:
                    stable.put(piece)
                since = []


def _kept(cut: Cut, since: Sequence[Piece]) -> Sequence[Piece]:
    if cut.kept is Kept.SOME:
        chance = random.Random(str(cut))  # noqa: S311  # to be had again from the same seed
        share = chance.random()
        return [piece for piece in since if chance.random() < share]
    return since if cut.kept is Kept.ALL else ()


def acks_at(entries: Sequence[Entry], cut: Cut, total: int) -> int:
    """How many bytes of acknowledgements were given before the cut."""
    return entries[cut.entry].acks if cut.entry < len(entries) else total


def counted(cuts: Sequence[Cut]) -> Mapping[Kept, int]:
    return {kept: sum(cut.kept is kept for cut in cuts) for kept in Kept}
