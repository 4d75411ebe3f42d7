"""The order of the queue, and when to look again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.schedule import Queue, Queued, scan_due


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 20), st.booleans()), max_size=40
    ),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_the_queue_serves_who_came_first(
    moves: list[tuple[str, int, bool]], free_slots: int
) -> None:
    queue, model = Queue(), {}
    for inode, (name, came, there) in enumerate(moves):
        if there:
            model[name] = Queued(dropped_at_ns=came, name=name, inode=inode)
            queue.add(model[name])
        else:
            model.pop(name, None)
            queue.discard(name)
    assert queue.names() == set(model)
    assert {queue.inode(name) for name in model} == {each.inode for each in model.values()}
    assert queue.next(free_slots=0) is None
    served = list(iter(lambda: queue.next(free_slots=free_slots + 1), None))
    assert served == sorted(model.values())
    assert len(queue) == 0


def test_a_long_scan_is_not_repeated_at_once() -> None:
    due = scan_due(woken=True, now=10.0, last=9.9, cost_s=0.1, rescan_s=60)
    assert due == pytest.approx(10.4)
    assert scan_due(woken=True, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 10.0
    assert scan_due(woken=False, now=10.0, last=9.0, cost_s=0.001, rescan_s=60) == 69.0
