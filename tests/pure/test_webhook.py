"""What is told, signed and answered, and which addresses it may be told to."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from runnerd import records, webhook
from runnerd.model import Callback, Claim, JobId, News, Submitter
from runnerd.networks import forbidden
from runnerd.webhook import Entry, EntryName

CLAIM = Claim(
    id=JobId("a.b@c+d-2"),
    file="a.yaml",
    submitter=Submitter(uid=1, user="u"),
    submitted_at=1.5,
    boot_id="boot",
    callback=Callback(url="https://a.example/x", events=tuple(News), secret="s"),  # noqa: S106
)


def entry(news: News, attempt: int = 0, step: int = 0) -> Entry:
    made = webhook.event(
        CLAIM, news, {"id": CLAIM.id}, host="h", now=2.0, attempt=attempt, step=step
    )
    assert made is not None
    return made


def test_the_names_of_entries_sort_as_the_events_come() -> None:
    names = [
        entry(News.STARTED, 1).name,
        entry(News.PROGRESS, 1, 1).name,
        entry(News.PROGRESS, 1, 2).name,
        entry(News.RETRYING, 1).name,
        entry(News.STARTED, 1000).name,
        entry(News.RETRYING, 1000).name,
        entry(News.FINISHED).name,
    ]
    assert sorted(map(str, names)) == [str(each) for each in names]
    assert [each.news for each in names] == [
        *(News.STARTED, News.PROGRESS, News.PROGRESS, News.RETRYING),
        *(News.STARTED, News.RETRYING, News.FINISHED),
    ]
    for each in names:
        assert webhook.read_name(str(each)) == each
        hidden = EntryName(each.job, each.number, each.key, hidden=True)
        assert webhook.read_name(str(hidden)) == hidden


@pytest.mark.parametrize(
    "name", ["dead", "a.json", "a~1~0.json", "~000000000000~000000000000.json", ".x.new", "a~b"]
)
def test_other_names_are_none(name: str) -> None:
    assert webhook.read_name(name) is None


def test_an_event_that_is_made_again_has_the_same_id_and_others_have_others() -> None:
    events = [entry(news, attempt, 1) for news in News for attempt in (1, 2)]
    assert entry(News.STARTED, 1, 1).id == events[0].id
    assert len({each.id for each in events}) == len(events) - 1  # a job ends once
    assert records.loads(Entry, records.dumps(events[0])) == events[0]


def test_nobody_is_told_what_he_does_not_want() -> None:
    for callback in (None, Callback(url="https://a.example/")):
        claim = replace(CLAIM, callback=callback)
        assert webhook.event(claim, News.STARTED, {}, host="h", now=1.0) is None


@given(st.binary(min_size=4), st.text())
def test_whoever_has_the_secret_can_verify(key: bytes, text: str) -> None:
    body = json.dumps({"x": text})
    stamp = str(int(datetime.now(UTC).timestamp()))
    written = b"whsec_" + base64.b64encode(key)
    signature = webhook.signature(written, "msg", stamp, body)
    headers = {"webhook-id": "msg", "webhook-timestamp": stamp, "webhook-signature": signature}
    assert Webhook(written.decode()).verify(body, headers) == {"x": text}
    if not key.startswith(b"whsec_"):
        assert webhook.signature(key, "msg", stamp, body) == signature


@pytest.mark.parametrize(
    ("status", "delivered", "gone", "down"),
    [
        (200, True, False, False),
        (204, True, False, False),
        (301, False, False, False),
        (404, False, False, False),
        (410, False, True, False),
        (429, False, False, True),
        (500, False, False, False),
        (503, False, False, True),
    ],
)
def test_what_a_status_means(status: int, *, delivered: bool, gone: bool, down: bool) -> None:
    answer = webhook.answer_of(status, None, 0.0)
    assert (answer.delivered, answer.gone, answer.down) == (delivered, gone, down)
    assert (answer.why is None) == delivered


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("999999999", webhook.LONGEST_WAIT_S),
        (formatdate(1000.0, usegmt=True), 100.0),
        (formatdate(10.0, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Fri, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_how_long_an_endpoint_wants_to_be_left_alone(text: str, wait_s: float | None) -> None:
    assert webhook.wait_of(text, 900.0) == wait_s


@pytest.mark.parametrize(
    ("address", "allowed", "good"),
    [
        ("93.184.216.34", (), True),
        ("2606:2800:220:1:248:1893:25c8:1946", (), True),
        ("127.0.0.1", (), False),
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("::1", ("127.0.0.0/8",), False),
        ("::ffff:127.0.0.1", (), False),
        ("::ffff:127.0.0.1", ("127.0.0.0/8",), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("192.168.0.1", ("10.0.0.0/8",), False),
        ("169.254.169.254", ("0.0.0.0/0",), False),
        ("::ffff:169.254.169.254", ("0.0.0.0/0", "::/0"), False),
        ("64:ff9b::a9fe:a9fe", ("0.0.0.0/0", "::/0"), False),
        ("2002:a9fe:a9fe::1", ("0.0.0.0/0", "::/0"), False),
        ("fe80::1%eth0", ("::/0",), False),
        ("fd00::1", (), False),
        ("fd00::1", ("fd00::/8",), True),
        ("0.0.0.0", ("0.0.0.0/0",), False),  # noqa: S104  # nobody listens here
        ("224.0.0.1", ("0.0.0.0/0",), False),
        ("100.64.0.1", (), False),
    ],
)
def test_which_addresses_may_be_spoken_to(
    address: str, allowed: tuple[str, ...], *, good: bool
) -> None:
    assert (forbidden(address, allowed) is None) == good
