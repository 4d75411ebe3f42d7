"""Which event is tried next, and when again."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.deliveries import GROWTH, MOST, SIDE_BY_SIDE, STREAK, Deliveries
from runnerd.model import JobId
from runnerd.webhook import Answer, EntryName

GOOD, BAD = Answer(delivered=True), Answer(why="500")
DOWN = Answer(down=True, why="refused")


def name(job: str, number: int = 1, key: str = "k") -> EntryName:
    return EntryName(JobId(job), number, key)


def made(*names: EntryName, window: int = 256) -> Deliveries:
    deliveries = Deliveries(lambda: 1.0, window)
    deliveries.look(names)
    assert deliveries.wants_look
    deliveries.look(names)
    return deliveries


def taken(deliveries: Deliveries, now: float = 0.0) -> list[EntryName]:
    found = []
    while (each := deliveries.next(now)) is not None:
        found.append(each)
    return found


def test_an_event_waits_until_an_earlier_one_of_its_job_would_have_been_seen() -> None:
    deliveries = Deliveries(lambda: 1.0)
    deliveries.look([name("a", 2)])
    assert deliveries.next(0.0) is None
    deliveries.look([name("a", 2), name("a", 1)])
    assert deliveries.next(0.0) is None  # the first is there, and is not sure yet
    deliveries.look([name("a", 2), name("a", 1)])
    assert deliveries.next(0.0) == name("a", 1)


def test_the_events_of_a_job_go_one_after_the_other() -> None:
    deliveries = made(name("a", 3), name("a", 1), name("a", 2))
    for number in (1, 2, 3):
        assert taken(deliveries) == [name("a", number)]
        assert deliveries.answered(name("a", number), GOOD, 0.0) is None
    assert len(deliveries) == 0
    assert deliveries.due() is None


def test_an_endpoint_that_answers_is_asked_ever_wider() -> None:
    deliveries = made(*(name(f"j{n}") for n in range(100)))
    widths = []
    for _ in range(5):
        now = taken(deliveries)
        widths.append(len(now))
        for each in now:
            deliveries.answered(each, GOOD, 0.0)
    assert widths == [1, 2, SIDE_BY_SIDE, SIDE_BY_SIDE, SIDE_BY_SIDE]


def test_an_endpoint_that_is_down_is_asked_ever_more_rarely_and_flushed_when_it_is_up() -> None:
    deliveries = made(*(name(f"j{n}") for n in range(10)))
    now, waits = 0.0, []
    for _ in range(8):
        (each,) = taken(deliveries, now)
        wait_s = deliveries.answered(each, DOWN, now)
        assert wait_s is not None
        waits.append(wait_s)
        assert taken(deliveries, now + wait_s * 0.9) == []
        due = deliveries.due()
        assert due is not None
        now = due
    assert waits[1:] == [GROWTH * each for each in waits[:-1]]
    (each,) = taken(deliveries, now)
    deliveries.answered(each, GOOD, now)
    assert len(taken(deliveries, now)) == 2


def test_a_failing_event_holds_up_its_own_job_only() -> None:
    deliveries = made(name("a", 1), name("a", 2), name("b", 1))
    (first,) = taken(deliveries)
    deliveries.answered(first, BAD, 0.0)
    (second,) = taken(deliveries)
    assert second.job != first.job
    deliveries.answered(second, GOOD, 0.0)
    left = taken(deliveries)
    assert [each.job for each in left] == ([first.job] if first.job == "b" else []) or not left
    assert deliveries.due() == 0.5


def test_tries_that_were_made_together_fail_together() -> None:
    deliveries = made(*(name(f"j{n}") for n in range(60)))
    for _ in range(4):
        for each in taken(deliveries, 1.0):
            deliveries.answered(each, GOOD, 1.0)
    together = taken(deliveries, 2.0)
    assert len(together) == SIDE_BY_SIDE
    for each in together:
        deliveries.answered(each, BAD, 2.1)
    assert deliveries.failures(name("x")) == 1
    assert taken(deliveries, 2.2) != []  # the streak is one failure long


def test_after_a_streak_of_failures_the_endpoint_as_a_whole_waits() -> None:
    deliveries = made(*(name(f"j{n}") for n in range(60)))
    for _ in range(STREAK + 1):
        (each,) = taken(deliveries, 0.0)
        deliveries.answered(each, BAD, 0.0)
    assert taken(deliveries, 0.0) == []


def test_what_an_endpoint_asks_for_is_respected_whatever_else_is_answered() -> None:
    deliveries = made(*(name(f"j{n}") for n in range(20)))
    for _ in range(3):
        for each in taken(deliveries, 0.0):
            deliveries.answered(each, GOOD, 0.0)
    first, *others = taken(deliveries, 1.0)
    deliveries.answered(first, Answer(down=True, why="429", wait_s=60.0), 2.0)
    for each in others:
        deliveries.answered(each, GOOD, 3.0)  # it was on its way before that
    assert taken(deliveries, 61.0) == []
    assert taken(deliveries, 62.0) != []


def test_dead_endpoints_leave_room_for_others() -> None:
    dead = [name(f"d{n}", key=f"dead{n}") for n in range(200)]
    deliveries = made(*dead)
    for _ in range(4):
        for each in taken(deliveries, 0.0):
            deliveries.answered(each, DOWN, 0.0)
    healthy = name("h", key="healthy")
    deliveries.look([*dead, healthy])
    deliveries.look([*dead, healthy])
    sent = taken(deliveries, 10.0)
    assert healthy in sent
    assert len(sent) <= MOST


def test_a_hundred_thousand_events_are_not_all_known() -> None:
    names = [name(f"j{n:06}") for n in range(100_000)]
    deliveries = made(*names, window=100)
    assert len(deliveries) == 100
    waiting = set(names)
    for _ in range(30):
        for each in taken(deliveries):
            deliveries.answered(each, GOOD, 0.0)
            waiting.discard(each)
        if deliveries.wants_look:
            deliveries.look(waiting)
    assert len(names) - len(waiting) > 150  # others took the places


def test_somebody_who_wants_it_now_gets_it_now() -> None:
    deliveries = made(name("a"))
    deliveries.answered(taken(deliveries)[0], DOWN, 0.0)
    assert taken(deliveries, 0.1) == []
    deliveries.hurry(JobId("a"))
    assert taken(deliveries, 0.1) == [name("a")]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=120), st.randoms())
def test_whatever_is_answered_each_event_comes_once_and_in_order(
    events: list[tuple[int, int]], random: object
) -> None:
    choice = random.choice  # type: ignore[attr-defined]
    numbers: Counter[int] = Counter()
    names = []
    for job, _ in events:
        numbers[job] += 1
        names.append(name(f"j{job}", numbers[job], key=f"k{job % 2}"))
    deliveries = made(*names) if names else Deliveries(lambda: 0.5)
    told: dict[str, list[int]] = {}
    now, flying = 0.0, []
    for _ in range(5000):
        flying += taken(deliveries, now)
        if not flying:
            due = deliveries.due()
            if due is None:
                break
            now = max(now, due)
            continue
        each = flying.pop(choice(range(len(flying))))
        answer = choice([GOOD, GOOD, BAD, DOWN])
        if deliveries.answered(each, answer, now) is None:
            told.setdefault(each.job, []).append(each.number)
    assert told == {f"j{job}": list(range(1, count + 1)) for job, count in numbers.items()}
    assert deliveries.in_flight == len(deliveries) == 0


@pytest.mark.parametrize("answer", [GOOD, BAD, DOWN, Answer(gone=True, why="410")])
def test_a_dead_letter_is_done_with(answer: Answer) -> None:
    deliveries = made(name("a", 1), name("a", 2))
    (first,) = taken(deliveries)
    deliveries.buried(first, answer, 0.0)
    assert taken(deliveries, 1e6) == [name("a", 2)]
