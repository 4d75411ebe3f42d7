"""Secrets: a job gets them, and they show nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from spoolbox import SpoolBox

from runnerd.errors import NotStartable
from runnerd.model import Reason, State
from runnerd.redact import SHORTEST
from runnerd.secretstore import SecretStore

VALUE = "hunter22-not-for-you"


def test_a_job_gets_its_secret_and_nobody_reads_of_it(box: SpoolBox) -> None:
    box.secret("smtp", VALUE + "\n")
    gate = box.gate()
    box.start()
    script = f'test "$PW" = {VALUE[:8]}"{VALUE[8:]}"; echo "the password is $PW."; read x < {gate}'
    box.drop("j", f"run: |\n  {script}\nsecrets: {{PW: smtp}}\n")
    gate.open()
    result = box.result("j")
    assert result.state is State.DONE
    assert box.output("j") == "the password is ***.\n"
    assert (result.secrets, result.env) == (("smtp",), ("PW",))
    for path in box.path("done", "j").rglob("*"):
        assert not path.is_file() or VALUE not in path.read_text()
    assert VALUE not in box.log.read_text()


def test_a_secret_is_on_no_command_line(box: SpoolBox) -> None:
    box.secret("smtp", VALUE)
    gate = box.gate()
    box.start()
    box.drop("j", f"run: 'read x < {gate}'\nsecrets: {{PW: smtp}}\n")
    gate.open()
    box.result("j")
    box.drop("k", f"run: 'echo up; read x < {gate}'\nsecrets: {{PW: smtp}}\n")
    box.started("k")
    words = [word for each in psutil.process_iter() for word in arguments(each)]
    assert any(str(box.root) in word for word in words)
    assert not any(VALUE in word for word in words)
    gate.open()
    assert box.result("k").state is State.DONE


def arguments(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_a_secret_is_hidden_at_every_split_of_the_output(box: SpoolBox) -> None:
    """Each write is a read of the runner's, as far as it keeps up; the pure test has all splits."""
    box.secret("smtp", "hunter22")
    box.start()
    script = 'for n in 1 2 3 4 5 6 7; do printf "%.${n}s" hunter22; sleep 0.02; '
    script += 'printf "%s\\n" "$(printf hunter22 | tail -c $((8 - n)))"; done'
    box.drop("j", f"run: |\n  {script}\nsecrets: {{PW: smtp}}\n")
    assert box.result("j").state is State.DONE
    assert box.output("j") == "***\n" * 7


@pytest.mark.parametrize(
    ("value", "mode", "why"),
    [
        (VALUE, 0o640, "others than its owner can read it (chmod 0600)"),
        (VALUE, 0o604, "others than its owner can read it (chmod 0600)"),
        ("x" * (SHORTEST - 1), 0o600, "it is shorter than 4 bytes, which cannot be hidden"),
        ("x" * 200_000, 0o600, "it is longer than 120 KiB"),
        ("abc\0def", 0o600, "it holds a NUL character"),
        (None, 0o600, "there is no such secret"),
    ],
)
def test_what_is_no_secret_starts_nothing(
    box: SpoolBox, value: str | None, mode: int, why: str
) -> None:
    if value is not None:
        box.secret("smtp", value, mode)
    box.start()
    result = box.run("j", "run: touch ran\nsecrets: {PW: smtp}")
    assert (result.state, result.reason) == (State.FAILED, Reason.EXECUTOR)
    assert result.message.endswith(f"the secret smtp cannot be used: {why}")
    assert not box.path("failed", "j", "work", "ran").exists()


def test_a_secret_may_be_a_credential_of_systemd(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "db").write_bytes(b"from systemd\n")
    store = SecretStore(tmp_path / "secrets", credentials)
    assert store.values({"A": "db"}) == {"A": b"from systemd"}
    with pytest.raises(NotStartable, match="there is no such secret"):
        store.values({"A": "smtp"})


def test_a_secret_is_never_a_link_or_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "target").write_text(VALUE)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("link", "fifo"):
        with pytest.raises(NotStartable, match="cannot be used"):
            SecretStore(tmp_path).values({"A": name})


def test_a_secret_that_is_not_utf8_arrives_as_it_is(box: SpoolBox) -> None:
    box.start()
    directory = box.scratch / "secrets"
    directory.mkdir()
    (directory / "raw").write_bytes(b"\xff\xfe\x80\x81")
    (directory / "raw").chmod(0o600)
    result = box.run("j", 'run: printf %s "$RAW" > bytes; cat bytes\nsecrets: {RAW: raw}')
    assert result.state is State.DONE
    assert box.path("done", "j", "work", "bytes").read_bytes() == b"\xff\xfe\x80\x81"
    assert box.output("j") == "***"
