"""The shape of the house: which module may know which, and who may touch the disk."""

from __future__ import annotations

import ast
import functools
import subprocess
from pathlib import Path

import pytest

import runnerd

PACKAGE = Path(runnerd.__file__).parent
ROOT = PACKAGE.parent

LAYERS = {
    "words": {
        "frozen",
        "model",
        "settings",
        "outcome",
        "records",
        "units",
        "ids",
        "errors",
        "events",
    },
    "decisions": {
        *("yamlsafe", "faults", "kinds", "names", "places", "patterns", "shapes", "fields"),
        "catalogue",
        *("parse", "config", "parameters", "templates", "policy", "complaints", "schema"),
        *("schedule", "recovery", "conclude", "redact", "retry", "workflow", "handover", "control"),
        *("damage", "retention", "webhook", "deliveries", "networks", "meanings"),
    },
    "disk": {
        *(
            "disk",
            "layout",
            "openat",
            "traces",
            "spool",
            "filing",
            "spares",
            "remains",
            "admit",
            "watch",
            "processes",
        ),
        *(
            "messages",
            "nursery",
            "configfile",
            "accounts",
            "secretstore",
            "jobdir",
            "controlbox",
        ),
        *("mend", "fsck", "outbox", "history", "child", "entrypoints", "frames", "debts", "prune"),
        *("journal", "bundle", "kin"),
    },
    "daemon": {
        *("daemon", "intake", "controller", "adopted", "trouble", "slots", "salvage", "service"),
        *("sweeper", "pruner", "post", "metrics", "running", "clock", "errand"),
    },
    "runner": {
        *("runner", "job", "supervise", "progress", "output", "limits", "cgroup", "telling"),
        "rlimits",
        *("artifacts", "executors", "executors.shell", "executors.process"),
        *("executors.program", "executors.plugins", "executors.description", "executors.ssh"),
        *("executors.docker", "executors.container", "executors.attendant"),
        *("executors.engine", "executors.meter", "executors.pulls", "executors.outside"),
        "executors.patience",
    },
    "courier": {"courier", "carrier", "channels"},
    "people": {
        *("api", "drop", "ctl", "ctl.look", "ctl.show", "ctl.submit", "ctl.templates"),
        *("ctl.control", "ctl.watch", "ctl.fsck", "ctl.prune", "ctl.callbacks"),
        *("ctl.complete", "ctl.executors", "ctl.doctor", "ctl.case", "ctl.findings"),
        *("ctl.check_machine", "ctl.check_spool", "ctl.engine"),
    },
    "all": {"__main__", "ctl.run"},
}
BELOW = {
    "words": {"words"},
    "decisions": {"words", "decisions"},
    "disk": {"words", "decisions", "disk"},
    "daemon": {"words", "decisions", "disk", "daemon"},
    "runner": {"words", "decisions", "disk", "runner"},
    "courier": {"words", "decisions", "disk", "courier"},
    "people": {"words", "decisions", "disk", "people"},
    "all": set(LAYERS),
}
# What a job file may say depends on which executors there are.
ALLOWED = {("ctl", "executors"), ("ctl.executors", "executors"), ("ctl.complete", "executors")}

CHANGES = {
    *("rename", "replace", "renames", "unlink", "remove", "removedirs", "mkdir", "makedirs"),
    *("rmdir", "link", "symlink", "mkfifo", "mknod", "truncate", "fsync", "fdatasync", "sync"),
}
# Who else changes names or syncs, and why: the layout before there is a spool; a submitter's drop;
# a log, which is synced before its result.
CHANGERS = {
    "disk": CHANGES,
    "layout": {"mkdir"},
    "drop": {"unlink", "mkdir", "fsync"},
    "output": {"fsync"},
    "cgroup": {"mkdir", "rmdir"},  # of a file system that is none
}
# The same by other ways. The layout makes its root; a nursery names itself in /proc.
OTHER_CHANGES = {
    *("mkdir", "rename", "unlink", "rmdir", "touch", "write_text", "write_bytes"),
    *("symlink_to", "hardlink_to", "rmtree", "copytree", "copyfile", "move"),
}
OTHER_CHANGERS = {
    "disk": {"rmtree"},
    "drop": {"mkdir", "rmtree", "copytree"},
    "layout": {"mkdir"},
    "nursery": {"write_text"},
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else name] = ast.parse(
            path.read_text()
        )
    return found


def imports(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of this package that a module imports, as names below `runnerd`."""
    here = name if name in ("ctl", "executors") else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.removeprefix("runnerd.") for each in node.names}
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = here.split(".")[: len(here.split(".")) - node.level + 1] if here else []
            parts = [*base, *(node.module or "").split(".")]
        elif (node.module or "").split(".")[0] == "runnerd":
            parts = (node.module or "").split(".")[1:]
        else:
            continue
        module = ".".join(part for part in parts if part)
        names = {f"{module}.{each.name}".lstrip(".") for each in node.names}
        found |= {each for each in names if each in known} or {module}
    return {each for each in found if each in known}


def layer(name: str) -> str:
    return next(each for each, names in LAYERS.items() if name in names)


def test_every_module_has_a_layer_and_a_place_in_the_map() -> None:
    known = set(modules()) - {"__init__"}
    assert known == set().union(*LAYERS.values())
    text = runnerd.__doc__ or ""
    missing = [name for name in known if name.partition(".")[0] not in text]
    assert not missing


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__init__"}))
def test_no_import_runs_backwards(name: str) -> None:
    known = modules()
    wrong = [
        other
        for other in imports(name, known[name], set(known))
        if layer(other) not in BELOW[layer(name)] and (name, other) not in ALLOWED
    ]
    assert not wrong, f"{name} ({layer(name)}) may not import {wrong}"


@pytest.mark.parametrize("name", sorted(LAYERS["words"] | LAYERS["decisions"]))
def test_decisions_touch_neither_disk_nor_clock_nor_network(name: str) -> None:
    banned = {"os", "time", "socket", "subprocess", "pathlib", "shutil", "threading"}
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    assert not found & banned


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_the_disk_changes_names(name: str) -> None:
    tree = modules()[name]
    called = {(owner, method) for owner, method in calls(tree) if not owner.endswith("disk")}
    by_os = {method for owner, method in called if owner == "os"}
    by_others = {method for owner, method in called if owner != "os"}
    assert by_os & CHANGES <= CHANGERS.get(name, set())
    # The disk's own methods have these names, and only they may use them.
    assert name == "disk" or by_others & OTHER_CHANGES <= OTHER_CHANGERS.get(name, set())
    assert not {
        each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil")
        for each in node.names
    } & (CHANGES | OTHER_CHANGES)


def calls(tree: ast.Module) -> set[tuple[str, str]]:
    """All calls of methods: of what, as it is written, and which."""
    return {
        (ast.unparse(node.func.value), node.func.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def test_the_check_of_changes_sees_each_way_to_change_a_name() -> None:
    tree = ast.parse("os.rename(a, b)\nPath(a).unlink()\nself.disk.move(a, b)\n")
    assert calls(tree) == {("os", "rename"), ("Path(a)", "unlink"), ("self.disk", "move")}
    assert imports("spool", ast.parse("import runnerd.daemon"), {"daemon"}) == {"daemon"}


def test_the_top_level_is_as_it_was_fixed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {path.partition("/")[0] for path in listed.stdout.splitlines()}
    fixed = {"LICENSE", "README.md", "pyproject.toml"}
    folders = {"runnerd", "systemd", "packaging", "tests", "etc"}
    assert {each for each in top if not each.startswith(".")} == fixed | folders
