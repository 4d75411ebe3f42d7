"""Which filed jobs go: always the oldest, and never more than the bounds ask for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runnerd.model import State
from runnerd.retention import Filed, next_due, overdue
from runnerd.settings import Keep

NOW = 1000.0
JOBS = st.lists(
    st.builds(
        Filed,
        id=st.text("ab", min_size=1, max_size=8),
        state=st.just(State.DONE),
        ended_at=st.integers(0, 1000).map(float),
        size=st.integers(0, 50),
    ),
    unique_by=lambda job: job.id,
)
KEEP = st.builds(
    Keep,
    age_s=st.none() | st.integers(1, 1000).map(float),
    count=st.none() | st.integers(0, 8),
    size=st.none() | st.integers(0, 100),
)


def job(name: str, ended_at: float = 0.0, size: int = 0) -> Filed:
    return Filed(id=name, state=State.DONE, ended_at=ended_at, size=size)


def gone(jobs: list[Filed], **keep: float) -> list[str]:
    return [each.id for each in overdue(jobs, Keep(**keep), NOW)]  # type: ignore[arg-type]


def test_each_bound_takes_the_oldest_first() -> None:
    jobs = [job("c", 30, 10), job("a", 10, 10), job("d", 40, 10), job("b", 20, 10)]
    assert gone(jobs) == []
    assert gone(jobs, count=3) == ["a"]
    assert gone(jobs, count=0) == ["a", "b", "c", "d"]
    assert gone(jobs, age_s=975) == ["a", "b"]
    assert gone(jobs, size=39) == ["a"]
    assert gone(jobs, size=20) == ["a", "b"]
    assert gone(jobs, size=20, count=3, age_s=999) == ["a", "b"]


def test_a_job_that_is_too_large_by_itself_takes_no_other_with_it() -> None:
    assert gone([job("old", 1, 10), job("huge", 2, 1000), job("new", 3, 10)], size=20) == ["huge"]


@given(JOBS, KEEP)
def test_what_stays_is_within_the_bounds_and_newer_than_what_goes(
    jobs: list[Filed], keep: Keep
) -> None:
    going = overdue(jobs, keep, NOW)
    staying = [each for each in jobs if each not in going]
    assert [each.ended_at for each in going] == sorted(each.ended_at for each in going)
    if keep.count is not None:
        assert len(staying) <= keep.count
    if keep.size is not None:
        assert sum(each.size or 0 for each in staying) <= keep.size
        going = [each for each in going if (each.size or 0) <= keep.size]
    if keep.age_s is not None:
        assert all(each.ended_at + keep.age_s > NOW for each in staying)
    if going and staying:
        assert going[-1].ended_at <= min(each.ended_at for each in staying)


@given(JOBS, KEEP)
def test_without_need_nothing_goes(jobs: list[Filed], keep: Keep) -> None:
    going = overdue(jobs, keep, NOW)
    if len(jobs) <= (9 if keep.count is None else keep.count) and keep.age_s is None:
        assert not going or (keep.size is not None and sum(x.size or 0 for x in jobs) > keep.size)
    due = next_due(jobs, keep, NOW)
    if due is not None:
        assert len(overdue(jobs, keep, due)) > len(going) or (keep.count, keep.size) != (
            None,
            None,
        )
