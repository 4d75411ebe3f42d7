"""What a container engine sends, without an engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runnerd.executors.engine import Frames

PIECES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=8)


@given(PIECES, st.data())
def test_output_is_freed_of_its_frames_wherever_it_is_cut(
    pieces: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(
        bytes([which, 0, 0, 0]) + len(each).to_bytes(4) + each for which, each in pieces
    )
    frames, output = Frames(), b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        output += b"".join(frames.opened(stream[:size]))
        stream = stream[size:]
    assert output == b"".join(each for _, each in pieces)
