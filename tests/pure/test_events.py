"""The log: every event can be found and is explained, and nobody can forge a line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import events, journal
from runnerd.events import FIELDS, Event
from runnerd.model import Reason, State

KINDS = [
    each
    for each in vars(events).values()
    if isinstance(each, type) and issubclass(each, Event) and each is not Event
]
CATALOG = (Path(__file__).parents[2] / "systemd/runnerd.catalog").read_text()
ENTRIES = CATALOG.split("\n-- ")[1:]
NASTY = st.text() | st.text("\n\r\x1b[2J\x07\x9b\x85\u2028\u202e\udcff<3>MESSAGE=|{}\\\0 ")


def failed(text: str = "x", output: bytes = b"") -> events.JobFailed:
    return events.JobFailed(
        id=text,
        state=State.FAILED,
        reason=Reason.EXIT,
        user=text,
        exit_code=3,
        message=text,
        took="",
        output=events.last_lines(output),
    )


def example(kind: type[Event], text: str) -> Event:
    """One of this kind, with this text wherever there is room for one."""
    values: dict[str, object] = {}
    for name in kind.names:
        is_number = kind.__annotations__[name] in ("int", "float", "int | None")
        values[name] = 3 if is_number else text
    if "output" in values:
        values["output"] = events.last_lines(text.encode("utf-8", "surrogatepass"))
    if "trace" in values:
        values["trace"] = (events.harmless(text),)
    return kind(**values)


def test_an_event_has_its_fields_and_no_others() -> None:
    with pytest.raises(TypeError, match="Recovered lacks, or does not have, why"):
        events.Recovered(why="x")
    with pytest.raises(TypeError, match="Degraded lacks, or does not have, why"):
        events.Degraded()  # type: ignore[call-arg]


def parsed(entry: bytes) -> dict[str, str]:
    """An entry as the journal reads it: a text to the end of its line, or one with its length."""
    found: dict[str, str] = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, is_text, value = line.partition(b"=")
        if not is_text:
            size = int.from_bytes(entry[:8], "little")
            value, end, entry = entry[8 : 8 + size], entry[8 + size : 9 + size], entry[9 + size :]
            assert end == b"\n"
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


def is_harmless(text: str) -> bool:
    odd = {"Cc", "Cs", "Zl", "Zp"}
    return not any(unicodedata.category(each) in odd or each in "\u202e\u2066" for each in text)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_event_has_an_id_of_its_own_and_an_explanation(kind: type[Event]) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", kind.message_id)
    assert [each for each in KINDS if each.message_id == kind.message_id] == [kind]
    (entry,) = [each for each in ENTRIES if each.startswith(f"{kind.message_id}\n")]
    head, _, text = entry.partition("\n\n")
    assert re.fullmatch(r"[0-9a-f]+\nSubject: [^\n]+\nDefined-By: runnerd", head)
    assert text.strip()
    named = set(example(kind, "x").named())
    assert set(re.findall(r"@([A-Z_]+)@", entry)) <= named, named


def test_the_catalogue_explains_nothing_else() -> None:
    assert len(ENTRIES) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(text=NASTY)
def test_no_value_forges_a_line_a_field_or_a_command_for_a_terminal(
    kind: type[Event], text: str
) -> None:
    event = example(kind, text)
    assert is_harmless(str(event))
    fields_found = parsed(journal.entry_of(event.level, str(event), event))
    allowed = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID", *FIELDS.values()}
    assert set(fields_found) <= allowed
    assert fields_found["MESSAGE_ID"] == kind.message_id
    first, *below = fields_found["MESSAGE"].split("\n")
    assert first == str(event)
    assert all(each.startswith("  | ") for each in below)
    assert all(is_harmless(each) for each in [first, *below])
    assert all(is_harmless(each) for name, each in fields_found.items() if name != "MESSAGE")


@given(output=st.binary() | NASTY.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_the_last_lines_of_an_output_are_few_and_harmless(output: bytes) -> None:
    lines = events.last_lines(output)
    assert len(lines) <= events.MOST_LINES
    assert all(is_harmless(each) and len(each) <= events.LONGEST_LINE + 3 for each in lines)


def test_of_a_line_that_was_written_over_the_last_state_counts() -> None:
    assert events.last_lines(b"a\r\n 10%\r 99%\r\nend\n\n") == ("a", " 99%", "end")
    assert events.last_lines(b"") == ()
    assert events.last_lines(b"\xff\x1b[31mred") == (r"\xff\x1b[31mred",)
    assert events.last_lines(b"".join(b"%d\n" % each for each in range(99)))[0] == "89"


# --- the forms ----------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is written to standard error, write by write."""
    found: list[bytes] = []
    real = os.write
    monkeypatch.setattr(
        os, "write", lambda fd, data: found.append(bytes(data)) if fd == 2 else real(fd, data)
    )
    return found


@pytest.mark.parametrize("text", ["short", "x" * 10_000, "\u20ac" * 5_000, '"\\\n' * 3_000])
def test_each_line_is_one_write_that_a_pipe_takes_whole(lines: list[bytes], text: str) -> None:
    event = failed(text, b"line\n" * 99)
    for write in (journal._write_text, journal._write_json, journal._write_marked):  # noqa: SLF001
        write(0.5, event.level, str(event), event)
    assert len(lines) == 3
    for line in lines:
        assert len(line) <= journal.LONGEST
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
    assert json.loads(lines[1])["event"] == "JobFailed"
    assert lines[2].startswith(b"<5>")


def test_a_line_of_json_has_the_fields(lines: list[bytes]) -> None:
    event = failed("j", b"why\n")
    journal._write_json(0.5, event.level, str(event), event)  # noqa: SLF001
    assert json.loads(lines[0]) == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "notice",
        "message": "j: failed (exit), j",
        "event": "JobFailed",
        "message_id": events.JobFailed.message_id,
        "job_id": "j",
        "job_state": "failed",
        "job_reason": "exit",
        "job_user": "j",
        "exit_status": 3,
        "took": "",
        "output": ["why"],
    }


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_an_entry_arrives_whole_if_need_be_in_sealed_memory(tmp_path: Path, size: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        address = str(tmp_path / "journal")
        theirs.bind(address)
        event = failed("x" * size)
        entry = journal.entry_of(event.level, str(event), event)
        journal.send(entry, address)
        data, fds, _, _ = socket.recv_fds(theirs, 1 << 20, 1)
        if fds:
            assert data == b""
            with pytest.raises(PermissionError):
                os.ftruncate(fds[0], 0)
            data = os.pread(fds[0], 1 << 25, 0)
            os.close(fds[0])
        assert bool(fds) == (size > 1 << 20)
        assert parsed(data)["EXIT_STATUS"] == "3"
        assert data == entry


def test_a_journal_that_hangs_holds_nobody_up_for_long(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(str(tmp_path / "journal"))
        address = str(tmp_path / "journal")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
            flood.setblocking(False)  # noqa: FBT003
            with contextlib.suppress(BlockingIOError):
                while True:
                    flood.sendto(b"MESSAGE=x\n", address)
        with pytest.raises(BlockingIOError):
            journal.send(b"MESSAGE=x\n", address)


def test_the_journal_is_meant_only_if_standard_error_leads_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    with file.open("w") as stream:
        assert not journal.is_journal(stream.fileno())
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert journal.is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:1")
        assert not journal.is_journal(stream.fileno())
