"""The executor ssh, against a real sshd on loopback."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from invariant import named
from spoolbox import SpoolBox, until

from runnerd.executors.ssh import program
from runnerd.model import Reason, State, Step

pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
ME, SHELL = pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(os.geteuid()).pw_shell
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None or SHELL.endswith(("nologin", "false")),
    reason="there is no OpenSSH, or our user has no shell to log in to",
)


@dataclass(frozen=True, slots=True)
class Remote:
    """Another machine, as far as ssh can tell."""

    port: int
    host_key: str
    identity: str
    log: Path

    def options(self, **more: object) -> str:
        given = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": ME,
            "identity": "deploy",
            "host_key": f'"{self.host_key}"',
            **more,
        }
        pairs = ", ".join(f"{name}: {value}" for name, value in given.items() if value is not None)
        return f"executor: ssh\nssh: {{{pairs}}}\n"


def new_key(path: Path) -> str:
    """Make a key; the public part."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text().strip()


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    assert SSHD is not None
    scratch = tmp_path_factory.mktemp("sshd")
    host_key = new_key(scratch / "host").rpartition(" ")[0]
    (scratch / "authorized").write_text(new_key(scratch / "user") + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd shuts itself in
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = f"""
ListenAddress 127.0.0.1:{port}
HostKey {scratch}/host
AuthorizedKeysFile {scratch}/authorized
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
"""
    (scratch / "config").write_text(config)
    log = scratch / "log"
    with log.open("wb") as log_file:
        sshd = subprocess.Popen([SSHD, "-D", "-e", "-f", scratch / "config"], stderr=log_file)
    try:
        until(lambda: sshd.poll() is not None or answers(port), "sshd does not listen")
        assert sshd.poll() is None, log.read_text()
        yield Remote(port, host_key, (scratch / "user").read_text(), log)
    finally:
        sshd.terminate()
        sshd.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def ready(box: SpoolBox, remote: Remote) -> SpoolBox:
    box.secret("deploy", remote.identity)
    box.secret("smtp", "hunter22-secret")
    box.start()
    return box


@needs_sshd
def test_a_script_runs_there_with_the_variables_of_the_job(ready: SpoolBox, remote: Remote) -> None:
    job = """
env: {A: "it's \\"$HOME\\" `id`\\n; grüße \\\\ %s"}
secrets: {PW: smtp}
run: |
  test -n "$SSH_CONNECTION"
  printf '%s|' "$A" "$PW" "${#PW}" "$RUNNER_JOB_ID" "$RUNNER_ATTEMPT" "${RUNNER_OUTPUT-none}"
  cat; cat <<END
  <$0> $(id -un)
  END
  false
  echo after
"""
    result = ready.run("j", remote.options() + job)
    assert (result.state, result.reason, result.exit_code) == (State.FAILED, Reason.EXIT, 1)
    given = 'it\'s "$HOME" `id`\n; grüße \\ %s'
    assert ready.output("j") == f"{given}|***|15|j|1|none|<{'/dev/fd/3'}> {ME}\n"
    assert result.executor == "ssh"
    assert result.secrets == ("deploy", "smtp")


@needs_sshd
def test_interpreters_and_commands_run_there(ready: SpoolBox, remote: Remote) -> None:
    job = f"""
steps:
  - {{id: a, run: "#!{sys.executable} -IS\\nimport sys\\nprint(sys.flags.isolated, sys.argv)\\n"}}
  - {{id: b, command: [printf, '%s|', "a b", '', $HOME, "it's", -x]}}
  - {{id: c, executor: shell, run: 'test -z "$SSH_CONNECTION"; echo here'}}
  - {{id: d, command: [no-such-program], continue_on_error: true}}
"""
    result = ready.run("j", remote.options() + job)
    assert result.state is State.DONE
    log = ready.path("done", "j", "output.log").read_bytes()
    parts = [log[each.log_start : each.log_end].decode() for each in result.steps]
    assert parts[:3] == ["1 ['/dev/fd/3']\n", "a b||$HOME|it's|-x|", "here\n"]
    assert result.steps[3].exit_code == 127


@needs_sshd
def test_a_long_script_and_much_output_arrive_whole(ready: SpoolBox, remote: Remote) -> None:
    filler = "".join(f"  : {'x' * 70}\n" for _ in range(2500))
    job = f"run: |\n{filler}  head -c 3000000 /dev/zero | tr '\\0' y\n  exit 7\n"
    result = ready.run("j", remote.options() + job)
    assert result.exit_code == 7
    assert ready.output("j") == "y" * 3_000_000


@needs_sshd
def test_nothing_secret_is_on_a_command_line_here_or_there(ready: SpoolBox, remote: Remote) -> None:
    gate = ready.gate()
    job = f"secrets: {{PW: smtp}}\nrun: |\n  word=tr0ub4dor\n  read x < {gate}\n"
    ready.drop("j", remote.options() + job)
    ready.started("j")
    until(lambda: "Accepted publickey" in remote.log.read_text(), "nobody logged in")
    lines = [line for each in psutil.process_iter() for line in arguments(each)]
    seen = "\n".join(lines)
    assert "StrictHostKeyChecking=yes" in seen
    for secret in ("tr0ub4dor", "hunter22", remote.identity.splitlines()[2]):
        assert secret not in seen
    gate.open()
    assert ready.result("j").state is State.DONE


def arguments(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@needs_sshd
@pytest.mark.root
def test_the_client_runs_as_the_jobs_user_and_leaves_no_file(
    ready: SpoolBox, remote: Remote
) -> None:
    gate = ready.gate()
    gate.path.chmod(0o666)
    job = f"user: daemon\nrun: 'read x < {gate}; id -un'\n"
    ready.drop("j", remote.options() + job)
    ready.started("j")
    until(lambda: len(clients(ready)) == 1, "there is no client")
    (client,) = clients(ready)
    assert client.uids() == (1, 1, 1)
    assert {each.username() for each in client.parent().children(recursive=True)} == {"daemon"}  # type: ignore[union-attr]
    gate.open()
    assert ready.result("j").state is State.DONE
    assert ready.output("j") == "root\n"
    assert list(ready.path("done", "j", "work").iterdir()) == []


def clients(box: SpoolBox) -> list[psutil.Process]:
    return [each for runner in box.runners() for each in named(runner.children(), "ssh")]


@needs_sshd
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"port": 1}, "Connection refused"),
        ({"identity": "smtp"}, "Permission denied (publickey)"),
        ({"host_key": f'"ssh-ed25519 {"A" * 68}"'}, "Host key verification failed"),
        ({"host_key": None}, "Host key verification failed"),
        ({"host": "no-such-host.invalid"}, "Could not resolve hostname"),
    ],
    ids=["port", "identity", "another-key", "no-key", "name"],
)
def test_trouble_of_ssh_is_no_exit_of_the_job(
    ready: SpoolBox, remote: Remote, more: dict[str, object], said: str
) -> None:
    result = ready.run("j", remote.options(**more) + f"run: touch {ready.scratch}/ran\n")
    assert (result.state, result.reason, result.exit_code) == (
        State.FAILED,
        Reason.EXECUTOR,
        None,
    )
    assert "ssh could not connect, or lost its connection; its output says why" in result.message
    assert said in ready.output("j")
    assert not (ready.scratch / "ran").exists()


# --- the end over there -------------------------------------------------------------------------


def stands(box: SpoolBox, name: str) -> int:
    """Wait until a process over there has told its number."""
    path = box.scratch / name
    until(lambda: path.exists() and path.read_text().endswith("\n"), f"{name} is not there")
    return int(path.read_text())


def waits(box: SpoolBox, before: str = "") -> str:
    """A script that tells the numbers of itself and of a child, and stays."""
    return (
        f"run: |\n  {before}\n  sleep 1000 & echo $! > {box.scratch}/child\n"
        f"  echo $$ > {box.scratch}/main\n  wait\n"
    )


def gone(*pids: int) -> None:
    for pid in pids:
        until(lambda pid=pid: not lives(pid), f"{pid} still runs over there")  # type: ignore[misc]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@needs_sshd
def test_what_is_cancelled_here_ends_there_and_has_the_last_word(
    ready: SpoolBox, remote: Remote
) -> None:
    trap = "trap 'echo asked; exit 0' TERM"
    ready.drop("j", remote.options() + waits(ready, trap))
    pids = stands(ready, "main"), stands(ready, "child")
    ready.control("j.cancel")
    assert ready.result("j").reason is Reason.CANCELLED
    assert ready.output("j") == "asked\n"
    gone(*pids)


@needs_sshd
def test_what_ran_too_long_ends_there(ready: SpoolBox, remote: Remote) -> None:
    job = waits(ready) + "timeout: 3\n"
    assert ready.run("j", remote.options() + job).reason is Reason.TIMEOUT
    gone(stands(ready, "main"), stands(ready, "child"))


@needs_sshd
@pytest.mark.heavy
def test_what_is_deaf_there_is_killed(ready: SpoolBox, remote: Remote) -> None:
    job = waits(ready, "trap '' TERM") + "timeout: 2\nkill_after: 1\n"
    assert ready.run("j", remote.options() + job).reason is Reason.TIMEOUT
    gone(stands(ready, "main"), stands(ready, "child"))


@needs_sshd
def test_a_child_that_stays_there_is_ended_with_the_step(ready: SpoolBox, remote: Remote) -> None:
    job = f"run: |\n  sleep 1000 & echo $! > {ready.scratch}/child\n  echo end\n"
    result = ready.run("j", remote.options() + job)
    assert (result.state, ready.output("j")) == (State.DONE, "end\n")
    gone(stands(ready, "child"))


@needs_sshd
def test_a_lost_connection_ends_the_step_there(ready: SpoolBox, remote: Remote) -> None:
    ready.drop("j", remote.options() + waits(ready))
    pids = stands(ready, "main"), stands(ready, "child")
    (client,) = clients(ready)
    client.kill()
    assert ready.result("j").signal == "SIGKILL"
    gone(*pids)


@needs_sshd
def test_a_runner_that_dies_leaves_nothing_there(ready: SpoolBox, remote: Remote) -> None:
    ready.drop("j", remote.options() + waits(ready))
    pids = stands(ready, "main"), stands(ready, "child")
    for runner in ready.runners():
        runner.send_signal(signal.SIGKILL)
    assert ready.result("j").reason is Reason.INTERRUPTED
    gone(*pids)


def test_a_part_of_the_program_does_nothing(tmp_path: Path) -> None:
    """As when the connection is cut while it is sent."""
    ran = tmp_path / "ran"
    text = program(Step(run=f"touch {ran}"), {"A": f"'; touch {ran}; '"})
    for size in [*range(0, len(text), 37), len(text) - 1]:
        command = ["/bin/sh", "-c", 'eval "$(head -c $0)"', str(len(text))]
        subprocess.run(command, input=text[:size], capture_output=True, check=False)
        assert not ran.exists(), size
    command = ["/bin/sh", "-c", 'eval "$(head -c $0)"', str(len(text))]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(text)
    child.stdin.flush()
    assert child.wait() == 0
    child.stdin.close()
    assert ran.exists()


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "ksh", "zsh"])
def test_the_program_is_plain_sh(tmp_path: Path, shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"there is no {shell}")
    as_sh = {"busybox": ["sh"], "zsh": ["--emulate", "sh"]}  # what each is as /bin/sh
    argv = [path, *as_sh.get(shell, [])]
    text = program(Step(run="echo $A; cat; exit 3", executor="ssh"), {"A": "a'b"})
    read_fd, write_fd = os.pipe()
    os.write(write_fd, text)
    done = subprocess.run(
        [*argv, "-c", 'eval "$(head -c $0)"', str(len(text))],
        stdin=read_fd,
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    os.close(read_fd)
    os.close(write_fd)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"a'b\n", b"")
