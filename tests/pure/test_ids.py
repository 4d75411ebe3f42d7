"""A dropped name becomes an id that is safe in a path, and free."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import ids
from runnerd.model import JobId


@given(st.text() | st.from_regex(r"[A-Za-z0-9._@+-]{1,140}\.yaml", fullmatch=True))
@settings(deadline=None)
def test_every_name_gives_an_id_that_is_a_safe_file_name(name: str) -> None:
    job_id, good = ids.wanted_id(name)
    assert ids.is_id(job_id)
    assert job_id not in (".", "..")
    assert "/" not in job_id
    assert not good or name.startswith(job_id)


@given(numbers=st.sets(st.integers(2, 40)), long=st.booleans())
@settings(deadline=None)
def test_the_free_id_is_free_and_near(numbers: set[int], *, long: bool) -> None:
    wanted = JobId("x" * (128 if long else 5))
    taken = {wanted, *(JobId(wanted[: 128 - len(f".{n}")] + f".{n}") for n in numbers)}
    free = ids.free_id(wanted, taken.__contains__)
    assert free not in taken
    assert ids.is_id(free)
    assert int(free.rpartition(".")[2]) <= 2 * (max(numbers, default=1) + 1)


def test_a_free_id_among_many_is_found_in_few_looks() -> None:
    looks = itertools.count()

    def taken(job_id: JobId) -> bool:
        next(looks)
        return job_id == "x" or int(job_id.rpartition(".")[2]) <= 100_000

    assert ids.free_id(JobId("x"), taken) == "x.100001"
    assert next(looks) < 50
