"""Jobs in containers: a real engine, and what may happen to it, to the runner and to the daemon."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from engine import IMAGE, Engine, missing, root_file_system
from invariant import living, named
from registry import Registry
from spoolbox import PATIENCE_S, Gate, SpoolBox, until

from runnerd.executors.container import WORK
from runnerd.model import Reason, State

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(missing() is not None, reason=f"no engine: {missing()}"),
]


@pytest.fixture(scope="module")  # not longer: other tests count the processes below them
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def dock(box: SpoolBox, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolBox]:
    """A spool whose daemon finds the engine. Afterwards no container is left."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    yield box
    until(engine.is_empty, "a container was left behind")


def job(script: str, *, options: str = "", more: str = "") -> str:
    """A job file. `options`: further ones of docker."""
    docker = f"executor: docker\ndocker: {{image: '{IMAGE}', {options}}}\n"
    return f"{docker}{more}run: |\n" + "".join(f"  {line}\n" for line in script.splitlines())


def at_gate(gate: Gate, *, options: str = "", more: str = "", then: str = "") -> str:
    """A job that stands at a gate until it is let through, or killed."""
    mount = f"mounts: ['{gate.path.parent}:/gates'], {options}"
    script = f"echo up >> $RUNNER_PROGRESS\nread x < /gates/{gate.path.name}\n{then}"
    return job(script, options=mount, more=more)


def runs(box: SpoolBox, job_id: str) -> None:
    """Wait until a job's script has begun."""
    path = box.path("running", job_id, "status.json")
    until(
        lambda: path.exists() and json.loads(path.read_text()).get("progress") == "up",
        f"{job_id} did not begin: {box.log.read_text()}",
    )


def attendants(box: SpoolBox) -> list[psutil.Process]:
    """The processes that look after containers of this spool."""
    return named(living(box.root), "runnerd-attends")


def debts_of(box: SpoolBox) -> list[str]:
    """The notes that something is to be swept."""
    return [name for name in os.listdir(box.root) if name.startswith(".sweep")]


# --- what a job gets ----------------------------------------------------------------------------


def test_a_job_with_limits_outputs_artifacts_and_a_secret(dock: SpoolBox) -> None:
    dock.secret("smtp", "pass-word-1")
    dock.start()
    script = """
    id -u; id -g
    test "$SMTP" = pass-word-1 && echo "the secret is $SMTP"
    ulimit -n; ulimit -f
    grep -E 'NoNewPrivs|CapBnd' /proc/self/status
    echo "$HOME $PWD $GREETING $RUNNER_JOB_ID"
    echo out >&1; echo err >&2
    echo file=a.txt >> $RUNNER_OUTPUT
    echo '50 Half' >> $RUNNER_PROGRESS
    echo text > a.txt
    """
    limits = "{memory: 64M, cpu: 50%, processes: 30, open_files: 99, file_size: 1M, io: low}"
    more = (
        "artifacts: ['*.txt']\nuser: daemon\nsecrets: {SMTP: smtp}\n"
        f"env: {{GREETING: hello}}\nlimits: {limits}\n"
    )
    result = dock.run("j", job(script, more=more))
    assert result.state is State.DONE, dock.output("j")
    assert result.outputs == {"file": "a.txt"}
    assert [(each.path, each.size) for each in result.artifacts] == [("a.txt", 5)]
    assert (result.executor, result.user) == ("docker", "daemon")
    daemon = pwd.getpwnam("daemon")
    lines = [line for line in dock.output("j").splitlines() if "engine warns" not in line]
    lines.remove("err")  # the engine keeps no order between the two streams
    assert lines == [
        *(str(daemon.pw_uid), str(daemon.pw_gid), "the secret is ***", "99", "2048"),
        *("CapBnd:\t0000000000000000", "NoNewPrivs:\t1"),
        *("/work /work hello j", "out"),
    ]
    made = dock.path("done", "j", "work", "a.txt").stat()
    assert (made.st_uid, made.st_gid) == (daemon.pw_uid, daemon.pw_gid)


def test_its_limits_are_the_containers(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    limits = "limits: {memory: 64M, cpu: 150%, processes: 30, cpu_time: 9s}\n"
    dock.drop("j", at_gate(gate, more=limits))
    runs(dock, "j")
    told = engine.told()
    assert told["Config"]["Labels"]["runnerd.job"] == "j"
    held = told["HostConfig"]
    assert (held["Memory"], held["MemorySwap"], held["PidsLimit"]) == (64 << 20, 64 << 20, 30)
    assert held["CpuQuota"] / held["CpuPeriod"] == 1.5
    assert held["NetworkMode"] == "none"
    assert (held["CapDrop"], held["SecurityOpt"]) == (["ALL"], ["no-new-privileges"])
    assert [(each["Name"], each["Soft"]) for each in held["Ulimits"]] == [("cpu", 9)]
    gate.open()
    assert dock.result("j").state is State.DONE


def test_steps_of_both_kinds_share_a_directory(dock: SpoolBox) -> None:
    dock.start()
    result = dock.run(
        "j",
        f"""
docker: {{image: '{IMAGE}'}}
steps:
  - {{id: a, run: 'echo 1 > a; echo "n=$$" >> $RUNNER_OUTPUT'}}
  - {{id: b, executor: docker, run: 'cat a; echo 2 > b; echo "n=b" >> $RUNNER_OUTPUT'}}
  - {{id: c, executor: docker, run: 'false'}}
  - {{id: d, if: always, run: 'cat b; echo $STEP_B_N'}}
""",
    )
    assert (result.reason, result.message) == (Reason.EXIT, "the step c exited with status 1")
    said = "==> step a\n==> step b\n1\n==> step c\n==> step d\n2\nb\n"
    assert dock.output("j") == said
    assert [each.executor for each in result.steps] == ["shell", "docker", "docker", "shell"]


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("run: exit 7", 7, ""),
        (
            "run: |\n  echo 'kill -SEGV $$' > s; sh s 2>&1 || echo $?; exit 4",
            4,
            "Segmentation fault\n139\n",
        ),
        ("run: [echo a, 'false', echo b]", 1, "a\n"),
        ("run: |\n  #!/bin/tail -n1\n  line", 0, "line\n"),
        ("command: [echo, $HOME]", 0, "$HOME\n"),
        ("command: [sh, -c, 'echo hello $0', there]", 0, "hello there\n"),
    ],
)
def test_what_is_run(dock: SpoolBox, what: str, code: int, said: str) -> None:
    dock.start()
    result = dock.run("j", f"executor: docker\ndocker: {{image: '{IMAGE}'}}\n{what}\n")
    assert result.exit_code == code, result
    assert dock.output("j") == said


def test_entry_point_and_mounts(dock: SpoolBox, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("there\n")
    dock.start()
    options = f"mounts: ['{tmp_path}/data:/data:ro'], entrypoint: [env, A=b], read_only: true"
    script = (  # quietly: an engine keeps no order between the two streams
        "exec 2>/dev/null; echo $A; cat /data/file; "
        'echo x > /data/new || echo "$?"; echo x > /new || echo "$?"'
    )
    result = dock.run("j", job(script, options=options))
    assert result.state is State.DONE
    assert dock.output("j").splitlines() == ["b", "there", "1", "1"]


def test_what_cannot_be_started(dock: SpoolBox) -> None:
    dock.start()
    start = f"executor: docker\ndocker: {{image: '{IMAGE}'}}\n"
    result = dock.run("j", f"{start}command: [nothing]\n")
    assert result.reason is Reason.EXECUTOR
    said = "the job could not be started: "
    assert result.message.startswith(f'{said}exec: "nothing": executable file not found')
    assert dock.run("k", f"{start}run: '#!/bin/nothing'\n").exit_code == 127
    assert "exec /bin/nothing failed: No such file or directory" in dock.output("k")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("pull: never", "the image none:1 is not here and `pull` is never"),
        ("mounts: ['/nothing:/x']", "/nothing cannot be mounted: No such file or directory"),
        ("mounts: ['LINK:/x']", "is a symbolic link"),
        (f"mounts: ['/srv:{WORK}/x']", f"nothing can be mounted at {WORK}/x"),
        ("network: nothing", "network nothing not found"),
        ("cap_add: [CHOWN]", "cap_add is of use to root only"),
    ],
)
def test_options_that_cannot_be_had(dock: SpoolBox, tmp_path: Path, options: str, why: str) -> None:
    (tmp_path / "link").symlink_to("/etc")
    dock.start()
    image = "none:1" if "pull" in options else IMAGE
    options = options.replace("LINK", f"{tmp_path}/link")
    text = f"executor: docker\nuser: daemon\ndocker: {{image: '{image}', {options}}}\nrun: x\n"
    result = dock.run("j", text)
    assert result.reason is Reason.EXECUTOR
    assert why in result.message


def test_root_with_a_capability(dock: SpoolBox) -> None:
    dock.start()
    script = "id -u; grep CapEff /proc/self/status"
    options = "user: '0', cap_add: [CHOWN]"
    result = dock.run("j", job(script, options=options, more="user: daemon\n"))
    assert result.state is State.DONE, result
    assert dock.output("j") == "0\nCapEff:\t0000000000000001\n"


# --- how it may end -----------------------------------------------------------------------------


def test_too_much_memory(dock: SpoolBox) -> None:
    dock.start()
    result = dock.run(
        "j", job("dd if=/dev/zero of=x bs=50M count=1", more="limits: {memory: 16M}\n")
    )
    assert result.reason is Reason.LIMIT
    assert result.message == "the job used more memory than its limit of 16M"


def test_too_much_memory_in_its_first_moments(
    dock: SpoolBox, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but the kernel knows then."""
    with engine.unknowing() as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        dock.start()
        result = dock.run(
            "j", job("dd if=/dev/zero of=x bs=50M count=1", more="limits: {memory: 16M}\n")
        )
    assert result.usage is None  # its cgroup was not found either
    assert result.reason is Reason.LIMIT
    assert result.message == "the job used more memory than its limit of 16M"


@pytest.mark.heavy
def test_too_much_cpu_time(dock: SpoolBox) -> None:
    dock.start()
    result = dock.run("j", job("while :; do :; done", more="limits: {cpu_time: 1s}\n"))
    assert result.reason is Reason.LIMIT
    assert result.message == "the job used more CPU time than its limit of 1s"
    assert result.usage is not None
    # The kernel kills at the second; what was used is as of the last look before it.
    assert 0.3 < result.usage.cpu_user_s + result.usage.cpu_system_s < 10
    assert result.usage.max_memory_bytes


def test_too_large_a_file(dock: SpoolBox) -> None:
    dock.start()
    script = "head -c 2000000 /dev/zero > file"
    result = dock.run("j", job(script, more="limits: {file_size: 1M}\n"))
    assert result.reason is Reason.LIMIT
    assert result.message == "the job wrote a file that was larger than its limit of 1M"


def test_a_cancelled_job_is_asked_to_end(dock: SpoolBox) -> None:
    gate = dock.gate()
    dock.start()
    script = "trap 'echo ending; exit 0' TERM\necho up >> $RUNNER_PROGRESS\n"
    script += f"sh -c 'read x < /gates/{gate.path.name}' & wait"
    dock.drop("j", job(script, options=f"mounts: ['{gate.path.parent}:/gates']"))
    runs(dock, "j")
    dock.control("j.cancel")
    assert dock.result("j").reason is Reason.CANCELLED
    assert dock.output("j") == "ending\n"


def test_a_script_that_has_no_trap_ends_as_well(dock: SpoolBox) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate, more="kill_after: 1h\n"))
    runs(dock, "j")
    dock.control("j.cancel")
    assert dock.result("j").reason is Reason.CANCELLED


@pytest.mark.heavy
def test_who_does_not_end_in_time_is_killed(dock: SpoolBox) -> None:
    dock.start()
    script = "trap '' TERM; echo up; while :; do sleep 9; done"
    result = dock.run("j", job(script, more="timeout: 2s\nkill_after: 100ms\n"))
    assert (result.reason, result.exit_code) == (Reason.TIMEOUT, None)
    assert dock.output("j") == "up\n"


def test_a_container_that_somebody_removes(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate))
    runs(dock, "j")
    with engine.client() as client:
        client.remove_container(engine.told()["Id"], force=True)
    result = dock.result("j")
    # The engine kills it first, and tells that for a moment, before it knows nothing of it.
    assert result.exit_code == 137 or "the executor of the job failed" in result.message


# --- images -------------------------------------------------------------------------------------


@pytest.fixture
def registry(engine: Engine) -> Iterator[Registry]:
    registry = Registry(root_file_system(os.urandom(8).hex()))
    yield registry
    registry.close()
    engine.forget(f"{registry.address}/box:1")


def of(registry: Registry, options: str = "", more: str = "") -> str:
    """A job with the registry's image."""
    options = f"{{image: '{registry.address}/box:1', {options}}}"
    return f"executor: docker\ndocker: {options}\n{more}run: echo ran\n"


@pytest.mark.heavy
def test_an_image_is_fetched_when_it_is_missing(dock: SpoolBox, registry: Registry) -> None:
    dock.start()
    assert dock.run("first", of(registry)).state is State.DONE
    said = dock.output("first")
    assert f"[runnerd: fetching the image {registry.address}/box:1]\n" in said
    assert "Pull complete]\n" in said
    assert said.endswith("ran\n")
    assert dock.run("again", of(registry)).state is State.DONE
    assert dock.output("again") == "ran\n"
    assert dock.run("always", of(registry, "pull: always")).state is State.DONE
    assert "Image is up to date" in dock.output("always")


def test_an_image_that_is_nowhere(dock: SpoolBox, registry: Registry) -> None:
    dock.start()
    result = dock.run("j", of(registry).replace("box:1", "box:2"))
    assert result.reason is Reason.EXECUTOR
    start = f"the job could not be started: the image {registry.address}/box:2 cannot be fetched: "
    assert result.message.startswith(start)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("secret", "works"),
    [
        ("runner:pass-word-1", True),
        ('{"username": "runner", "password": "pass-word-1"}', True),
        ("runner:pass-word-2", False),
        ("nonsense", False),
    ],
)
def test_a_registry_that_wants_a_login(
    dock: SpoolBox, registry: Registry, secret: str, *, works: bool
) -> None:
    registry.login = "runner:pass-word-1"
    dock.secret("registry", secret)
    dock.start()
    result = dock.run("j", of(registry, "registry_auth: registry"))
    assert (result.state is State.DONE) is works, result
    assert "pass-word" not in dock.output("j") + result.message + dock.log.read_text()


@pytest.mark.heavy
def test_fetching_is_no_part_of_the_timeout(dock: SpoolBox, registry: Registry) -> None:
    registry.held.clear()
    dock.start()
    dock.drop("j", of(registry, more="timeout: 3s\n"))
    assert registry.asked.wait(PATIENCE_S)
    time.sleep(4)  # longer than the timeout
    registry.held.set()
    assert dock.result("j").state is State.DONE


@pytest.mark.heavy
def test_fetching_has_a_timeout_of_its_own(dock: SpoolBox, registry: Registry) -> None:
    registry.held.clear()
    dock.start()
    result = dock.run("j", of(registry, "pull_timeout: 1s"))
    assert result.reason is Reason.EXECUTOR
    assert "took longer than 1s" in result.message


@pytest.mark.heavy
def test_a_job_that_fetches_can_be_cancelled(dock: SpoolBox, registry: Registry) -> None:
    registry.held.clear()
    dock.start()
    dock.drop("j", of(registry))
    assert registry.asked.wait(PATIENCE_S)
    dock.control("j.cancel")
    assert dock.result("j").reason is Reason.CANCELLED


def test_a_job_in_the_foreground(dock: SpoolBox, engine: Engine) -> None:
    file = dock.scratch / "j.yaml"
    file.write_text(job("echo hello; exit 3"))
    command = [sys.executable, "-c", "from runnerd.ctl import main; main()", "run", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert not engine.containers()


# --- who may ------------------------------------------------------------------------------------

RULES = """[{users: [daemon], executors: [docker], images: ["other:*"]}]"""


def test_who_may_not_is_told_the_rule(dock: SpoolBox) -> None:
    dock.configure(policy=RULES)
    file = dock.scratch / "j.yaml"
    file.write_text(job("id", options="network: host, user: root, cap_add: [ALL]"))
    asked = [sys.executable, "-c", "from runnerd.ctl import main; main()"]
    asked += ["--config", str(dock.config_file)]
    asked += ["validate", "--as", "daemon", str(file)]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert answer.returncode != 0
    for rule in (
        *("images: [box:1]", "networks: [host]", 'container_users: ["root"]'),
        "capabilities: [ALL]",
    ):
        assert f"`{rule}`" in answer.stderr + answer.stdout


# --- never a leftover ---------------------------------------------------------------------------


@pytest.mark.heavy
def test_many_in_a_row_leave_nothing(dock: SpoolBox, engine: Engine) -> None:
    many = 12
    dock.start()
    for number in range(many):
        dock.drop(f"j{number}", job("exit $(($RANDOM % 2))", more="user: daemon\n"))
    for number in range(many):
        assert dock.result(f"j{number}", within_s=120).executor == "docker"
    assert not engine.containers()


@pytest.mark.heavy
def test_two_hundred_in_a_row_leave_nothing(dock: SpoolBox, engine: Engine) -> None:
    dock.start(slots=1)
    assert dock.run("warm", job("true")).state is State.DONE
    (runner,) = dock.runners()
    fds, memory = runner.num_fds(), runner.memory_info().rss
    for number in range(200):
        assert dock.run(f"j{number}", job("true")).state is State.DONE
    assert not engine.containers()
    assert dock.runners() == [runner]
    assert runner.num_fds() == fds
    assert runner.memory_info().rss < memory * 1.2


@pytest.mark.heavy
def test_a_killed_attendant_leaves_nothing(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate))
    runs(dock, "j")
    (attendant,) = attendants(dock)
    attendant.kill()
    result = dock.result("j")
    assert result.reason is Reason.EXECUTOR
    assert "the process that looked after its container was killed" in result.message
    assert not engine.containers()


@pytest.mark.heavy
def test_a_killed_runner_leaves_nothing(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate))
    runs(dock, "j")
    (runner,) = dock.runners()
    runner.kill()
    result = dock.result("j")
    assert result.reason is Reason.INTERRUPTED
    assert not engine.containers()


@pytest.mark.heavy
def test_a_job_that_is_tried_again_runs_once_at_a_time(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    more = "retry: {max: 1, delay: 0s, on: [interrupted]}\n"
    dock.drop("j", at_gate(gate, more=more, then="echo through"))
    runs(dock, "j")
    (runner,) = dock.runners()
    first = engine.told()["Id"]
    runner.kill()
    until(lambda: [each["Id"] for each in engine.containers()] not in ([], [first]), "not again")
    assert first not in [each["Id"] for each in engine.containers()]
    gate.open()
    result = dock.result("j")
    assert (result.state, len(result.attempts)) == (State.DONE, 2)


def test_a_killed_daemon_leaves_the_job_alone(dock: SpoolBox) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate, then="echo through"))
    runs(dock, "j")
    dock.kill()
    dock.start()
    gate.open()
    assert dock.result("j").state is State.DONE


@pytest.mark.heavy
@pytest.mark.parametrize("phase", ["made", "runs"])
@pytest.mark.parametrize("who", ["runner", "all"])
def test_deaths_leave_nothing(dock: SpoolBox, engine: Engine, phase: str, who: str) -> None:
    """The runner dies, or with it the daemon and the attendant, while the engine is at work."""
    gate = dock.gate()
    dock.start()
    assert dock.run("warm", job("true")).state is State.DONE
    with contextlib.ExitStack() as thawed:
        if phase == "made":
            thawed.enter_context(engine.frozen())
        dock.drop("j", at_gate(gate))
        if phase == "made":
            until(lambda: bool(attendants(dock)), "no attendant")
        else:
            runs(dock, "j")
        doomed = [*dock.runners(), *(attendants(dock) if who == "all" else [])]
        if who == "all":
            dock.kill()
        for each in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    if who == "all":
        dock.start()
    assert dock.result("j", within_s=60).reason is Reason.INTERRUPTED
    until(lambda: not debts_of(dock), "the sweep does not end")
    assert not engine.containers()


@pytest.mark.heavy
def test_an_engine_that_is_killed_fails_the_job_and_is_swept_later(
    dock: SpoolBox, engine: Engine
) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate))
    runs(dock, "j")
    main = psutil.Process(engine.told()["State"]["Pid"])
    engine.kill()
    try:
        result = dock.result("j")
        assert result.reason is Reason.EXECUTOR
        assert "the executor of the job failed: the container engine at unix://" in result.message
        until(lambda: not main.is_running(), "its process goes on")
        assert debts_of(dock)
        # The daemon goes on, and shell jobs as well.
        assert dock.run("shell", "run: 'true'").state is State.DONE
        refused = dock.run("k", job("true"))
        assert refused.reason is Reason.EXECUTOR
        assert "cannot be used" in refused.message
    finally:
        engine.start()
    until(lambda: not debts_of(dock), f"not swept: {dock.log.read_text()}", within_s=60)
    assert not engine.containers()


@pytest.mark.heavy
def test_an_interrupted_job_does_not_wait_for_ever(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate))
    runs(dock, "j")
    engine.kill()
    try:
        (runner,) = dock.runners()
        runner.kill()
        result = dock.result("j", within_s=60)
        assert result.reason in (Reason.INTERRUPTED, Reason.EXECUTOR)
        assert "may be there still" in result.message or result.reason is Reason.EXECUTOR
    finally:
        engine.start()
    until(lambda: not debts_of(dock), f"not swept: {dock.log.read_text()}", within_s=60)


@pytest.mark.heavy
def test_a_hanging_engine_holds_no_job_for_ever(dock: SpoolBox, engine: Engine) -> None:
    gate = dock.gate()
    dock.start()
    dock.drop("j", at_gate(gate, more="kill_after: 100ms\n"))
    runs(dock, "j")
    with engine.frozen():
        dock.control("j.cancel")
        assert dock.result("j", within_s=60).reason is Reason.CANCELLED
    until(lambda: not debts_of(dock), f"not swept: {dock.log.read_text()}", within_s=60)


def test_a_daemon_without_docker_jobs_asks_no_engine(
    box: SpoolBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listening, tempfile.TemporaryDirectory() as directory:
        listening.bind(f"{directory}/s")
        listening.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{directory}/s")
        box.start()
        box.drop("j", "run: read x < nothing")
        box.result("j")
        box.kill()
        box.start()
        assert box.run("k", "run: 'true'").state is State.DONE
        assert not select.select([listening], [], [], 0)[0]


@pytest.mark.heavy
def test_deaths_at_any_moment_leave_nothing(dock: SpoolBox, engine: Engine) -> None:
    """kill -9 of the runner, the attendant, or the daemon, somewhere in a container's life."""
    chance = random.Random(1)  # noqa: S311  # the moments, which the machine shifts anyhow
    dock.start(rescan="0.2s", slots=1)
    whole_s = timed(lambda: dock.run("whole", job("echo ran >> effects; sleep 0.1")))
    for number in range(40):
        dock.drop(f"j{number}", job("echo ran >> effects; sleep 0.1"))
        time.sleep(chance.uniform(0, whole_s))  # a moment by chance, not a wait for something
        who = chance.choice(["runner", "attendant", "daemon"])
        if who == "daemon":
            dock.kill()
            dock.start(rescan="0.2s", slots=1)
        else:
            for each in (dock.runners() if who == "runner" else attendants(dock))[:1]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
        result = dock.result(f"j{number}", within_s=60)
        effects = dock.path(result.state.value, f"j{number}", "work", "effects")
        ran = effects.read_text().count("ran") if effects.exists() else 0
        assert ran <= len(result.attempts)
        assert ran == 1 or result.state is State.FAILED
    until(lambda: not debts_of(dock), "a sweep is owed for ever", within_s=60)
    assert not engine.containers()


def timed(act: Callable[[], object]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began
