"""limits: a job's fences. They stand before its first instruction, and one that was hit is named.

What the kernel holds for each process (open files, size of a file, priorities) is set between fork
and exec. What counts for all of the job (memory, processes, share of the CPUs) its cgroup holds. In
a machine that gives us none, the runner looks at the job's processes from time to time.

Guarantees: a limit that was asked for is held, or the job does not start. With a cgroup at once;
            without one memory, processes and CPU time are held to the next look.
Errors:     errors.NotStartable before the start; `enter` raises OSError only.
Not held:   without a cgroup: memory is what the processes have mapped, not the cache of files; a
            job that lets the kernel bury its children (SIGCHLD ignored) hides their CPU time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from typing import TYPE_CHECKING

from . import rlimits
from .cgroup import Leaf, Tree
from .errors import NotStartable
from .model import Limits
from .outcome import Exited, Outcome, Signalled, Usage
from .units import in_words, share_in_words, size_in_words

if TYPE_CHECKING:
    from .kin import Kin

LOOK_S = 0.2  # what a job can take too much in that time, it takes
SET_AGAIN_S = 1.0
_BLOCK = 512  # the unit of ru_inblock and ru_oublock, getrusage(2)


class Fences:
    """The limits of one job: set before its first instruction, watched while it runs."""

    def __init__(self, limits: Limits, leaf: Leaf | None, without_leaf: str | None) -> None:
        self.without_leaf = without_leaf  # why the job has no cgroup of its own
        self.spare: set[int | None] = set()  # processes below ours that are none of the job's
        self._limits = limits
        own = (limits.cpu_time_s, limits.open_files, limits.file_size_bytes, limits.nice, limits.io)
        self._sets_own = own != (None,) * len(own)  # something of the process itself is to be set
        self._counts = True
        self._leaf = leaf
        self._peak_bytes = 0
        self._base = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.look_every_s: float | None = None
        self._hold()
        self._enter_fd = None if leaf is None else leaf.enter_fd()

    def _hold(self) -> None:
        """Set what a cgroup can hold, again and again where that gets lost; watch the rest."""
        held = frozenset[str]() if self._leaf is None else self._leaf.set(self._limits)
        self._watch_memory = self._limits.memory_bytes is not None and "memory.max" not in held
        self._watch_processes = self._limits.processes is not None and "pids.max" not in held
        self.holds_cpu = self._limits.cpu is None or "cpu.max" in held
        if self._watch_memory or self._watch_processes or self._limits.cpu_time_s is not None:
            self.look_every_s = LOOK_S
        elif self._leaf is not None and self._leaf.tree.fleeting and self._limits != Limits():
            self.look_every_s = SET_AGAIN_S
        else:
            self.look_every_s = None

    @classmethod
    def around(cls, limits: Limits | None, tree: Tree | None, job_id: str) -> Fences:
        """Fences for a job that starts now. NotStartable: what it asks for is not to be had."""
        limits = limits or Limits()
        rlimits.check_rights(limits)
        fences, why = None, "runnerd has no cgroup to divide (systemd: Delegate=yes)"
        if tree is not None:
            try:
                fences = cls._with_leaf(limits, tree, job_id)
                why = "its cgroup has no controller cpu"
            except OSError as error:  # the unit's cgroup may be full, or gone
                why = str(error)
        if fences is None:
            fences = cls(limits, None, why)
        if not fences.holds_cpu:
            fences.close()
            asked = share_in_words(limits.cpu or 0)
            raise NotStartable(f"its limit cpu: {asked} cannot be held here: {why}")
        return fences

    @classmethod
    def elsewhere(cls, limits: Limits | None) -> Fences:
        """Fences for a job whose limits are all held by others: they only name one that was hit."""
        fences = cls(Limits(), None, None)
        fences._limits, fences._counts = limits or Limits(), False
        return fences

    @classmethod
    def _with_leaf(cls, limits: Limits, tree: Tree, job_id: str) -> Fences:
        with contextlib.ExitStack() as on_error:
            leaf = Leaf.make(tree, job_id)
            on_error.callback(leaf.close)
            fences = cls(limits, leaf, None)
            on_error.pop_all()
        return fences

    @property
    def needs_fork(self) -> bool:
        """Whether `enter` has anything to do."""
        return self._leaf is not None or self._sets_own

    def enter(self) -> None:
        """Put the calling process behind the fences: after setsid, before it gives up rights."""
        if self._enter_fd is not None:
            os.write(self._enter_fd, b"0")
        if self._sets_own:
            rlimits.take(self._limits)

    def look(self) -> str | None:
        """Look at all processes below the calling one; a sentence if they have had too much.

        Call it every `look_every_s`, which may be another after each look.
        """
        asked = self._limits
        if self._leaf is not None and self._leaf.tree.fleeting:
            self._hold()
        processes = []
        if self._watch_memory or self._watch_processes or self._leaf is None:
            processes = rlimits.below(self.spare)
        if self._watch_memory:
            most = asked.memory_bytes or 0
            used = rlimits.memory_of(processes, most)
            self._peak_bytes = max(self._peak_bytes, used)
            if used > most:
                return self._too_much_memory()
        if self._watch_processes and rlimits.tasks_of(processes) > (asked.processes or 0):
            return f"the job had more processes and threads than its limit of {asked.processes}"
        if asked.cpu_time_s is not None and self._cpu_s(processes) > asked.cpu_time_s:
            return self._too_much_cpu_time()
        return None

    def explain(self, outcome: Outcome) -> str | None:
        """After the end, before `close`: the limit that was it, as a sentence."""
        match outcome:
            case Signalled(number):
                pass
            case Exited(code) if code != 0:
                number = code - 128  # how a shell tells of a child that a signal ended
            case _:
                return None
        asked, hits = self._limits, self._leaf.hits() if self._leaf else frozenset[str]()
        if "memory" in hits and asked.memory_bytes is not None:
            return self._too_much_memory()
        if number == signal.SIGXFSZ and asked.file_size_bytes is not None:
            most = size_in_words(asked.file_size_bytes)
            return f"the job wrote a file that was larger than its limit of {most}"
        if asked.cpu_time_s is not None and (
            number == signal.SIGXCPU
            or (number == signal.SIGKILL and self._cpu_s([]) >= asked.cpu_time_s)
        ):
            return self._too_much_cpu_time()
        if "processes" in hits and asked.processes is not None:
            return f"the job failed after it had reached its limit of {asked.processes} processes"
        return None

    def usage(self, used: Usage) -> Usage:
        """The more complete of what `wait` told of the main process and what was counted here."""
        now, base = resource.getrusage(resource.RUSAGE_CHILDREN), self._base
        user_s, system_s = now.ru_utime - base.ru_utime, now.ru_stime - base.ru_stime
        read = (now.ru_inblock - base.ru_inblock) * _BLOCK
        written = (now.ru_oublock - base.ru_oublock) * _BLOCK
        most = max(used.max_memory_bytes or 0, self._peak_bytes)
        if self._leaf is not None:
            counted = self._leaf.usage()
            user_s, system_s = counted.cpu_user_s, counted.cpu_system_s
            read, written = max(read, counted.read_bytes), max(written, counted.write_bytes)
            most = counted.memory_peak_bytes or most
        return Usage(
            cpu_user_s=round(max(used.cpu_user_s, user_s), 3),
            cpu_system_s=round(max(used.cpu_system_s, system_s), 3),
            max_memory_bytes=most or None,
            read_bytes=max(used.read_bytes, read),
            write_bytes=max(used.write_bytes, written),
        )

    def kill(self) -> None:
        """Kill all that is in the job's cgroup, if it has one."""
        if self._leaf is not None:
            self._leaf.kill()

    def close(self) -> None:
        """End what is left and take the fences down."""
        if self._enter_fd is not None:
            os.close(self._enter_fd)
        if self._leaf is not None:
            self._leaf.close()

    def _cpu_s(self, living: list[Kin]) -> float:
        """CPU time of all of the job: counted by its cgroup, or of the dead and of the living."""
        if not self._counts:
            return 0.0
        if self._leaf is not None:
            return sum(self._leaf.cpu_s())
        now, base = resource.getrusage(resource.RUSAGE_CHILDREN), self._base
        total = now.ru_utime + now.ru_stime - base.ru_utime - base.ru_stime
        return total + rlimits.cpu_s_of(living)  # after the dead: nobody counts twice

    def _too_much_memory(self) -> str:
        most = size_in_words(self._limits.memory_bytes or 0)
        return f"the job used more memory than its limit of {most}"

    def _too_much_cpu_time(self) -> str:
        most = in_words(self._limits.cpu_time_s or 0)
        return f"the job used more CPU time than its limit of {most}"
