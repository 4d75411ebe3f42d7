"""policy: who may do what. Pure.

A job is allowed if one rule for its submitter allows all that it asks for: rights are not gathered
from several rules, so a rule's limits hold for whatever else it gives. A template carries its own
rule, `allow`, and what it asks for itself was decided by who wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from . import records
from .errors import Denied
from .frozen import frozen
from .model import Callback, Docker, IoShare, JobSpec, Limits, Mount, Problem, Ssh, Step, Submitter
from .places import is_channel, lies_below
from .schedule import DEFAULT_QUEUE
from .settings import Allow, Ceiling, Rule
from .units import in_words, share_in_words, size_in_words

NO_NETWORK = "none"


@frozen(kw_only=True)
class Who:
    """A submitter, for rules. `trusted`: the daemon's own user, who needs none."""

    user: str
    uid: int
    groups: frozenset[str]
    trusted: bool = False

    def __str__(self) -> str:
        return f"{self.user} (uid {self.uid})"

    @property
    def submitter(self) -> Submitter:
        return Submitter(uid=self.uid, user=self.user)


@frozen
class _Wish:
    """Something that a job asks for and a rule does not give: in which field, what is missing."""

    field: str
    asked: str
    missing: str


def authorise(
    spec: JobSpec, who: Who, rules: Collection[Rule], *, allow: Allow | None = None
) -> JobSpec:
    """The job as this submitter may run it: as submitted, within the rule's limits.

    `allow`: of the template that the job uses. Raises Denied with the rule that is missing.
    """
    if who.trusted:
        return spec
    mine = [rule for rule in rules if _is_for(rule, who)]
    use = spec.steps[0].uses
    if use is not None:
        if allow is None or not _is_for(allow, who):
            message = f"{who} may not use the template {use.template}: its `allow` names "
            message += "neither this user nor one of its groups"
            raise Denied((_problem("uses", message),))
        if spec.callback is None:
            return spec
    if not mine:
        message = f"{who} may not submit jobs: no rule of the policy is for this user or its groups"
        raise Denied((_problem("submitter", message),))
    missing = [list(_wishes(spec, who, rule)) for rule in mine]
    fewest = min(missing, key=len)
    if fewest:
        raise Denied(tuple(_problem(wish.field, _sentence(wish, who)) for wish in fewest))
    return spec if use is not None else _within(spec, mine[missing.index(fewest)])


def may_call_back(callback: Callback, who: Who, rules: Collection[Rule]) -> bool:
    """Whether the callback of a job that will not run may be told so."""
    mine = (rule for rule in rules if _is_for(rule, who))
    return who.trusted or any(not list(_wishes_of_callback(callback, rule)) for rule in mine)


def _is_for(rule: Rule | Allow, who: Who) -> bool:
    return who.user in rule.users or not who.groups.isdisjoint(rule.groups)


def _wishes(spec: JobSpec, who: Who, rule: Rule) -> Iterator[_Wish]:
    """What the job asks for beyond the rule."""
    for step in spec.steps:
        yield from _wishes_of_step(step, rule)
    if spec.user not in (None, who.user, *rule.run_as):
        yield _Wish("user", f"run jobs as {spec.user}", f"run_as: [{spec.user}]")
    for name in spec.secrets.values():
        if not _matches(name, rule.secrets):
            yield _Wish("secrets", f"use the secret {name}", f"secrets: [{name}]")
    if spec.queue not in (None, DEFAULT_QUEUE, *rule.queues):
        yield _Wish("queue", f"use the queue {spec.queue}", f"queues: [{spec.queue}]")
    if spec.callback is not None:
        yield from _wishes_of_callback(spec.callback, rule)
    yield from _wishes_of_limits(spec, rule.limits)


def _wishes_of_step(step: Step, rule: Rule) -> Iterator[_Wish]:
    if step.uses is None and step.executor not in rule.executors:
        asked = f"run free jobs with the executor {step.executor}"
        yield _Wish("executor", asked, f"executors: [{step.executor}]")
    for name in step.secrets:
        if not _matches(name, rule.secrets):
            yield _Wish(step.executor, f"use the secret {name}", f"secrets: [{name}]")
    if step.executor == "docker" and step.options is not None:
        yield from _wishes_of_docker(records.made(Docker, step.options), rule)
    if step.executor == "ssh" and step.options is not None:
        host = records.made(Ssh, step.options).host
        if not _matches(host, rule.hosts):
            yield _Wish("ssh", f"connect to the host {host}", f"hosts: [{host}]")


def _wishes_of_limits(spec: JobSpec, most: Ceiling) -> Iterator[_Wish]:
    if most.timeout_s is not None and (spec.timeout_s or 0) > most.timeout_s:
        asked = f"run a job for longer than {in_words(most.timeout_s)}"
        yield _Wish("timeout", asked, f"limits: {{timeout: {in_words(spec.timeout_s or 0)}}}")
    limits = spec.limits or Limits()
    for name, (field, words) in _CEILINGS.items():
        wanted, top = getattr(limits, name), getattr(most, name)
        if wanted is not None and top is not None and wanted > top:
            asked = f"have a job with {field} above {words(top)}"
            yield _Wish("limits", asked, f"limits: {{{field}: {words(wanted)}}}")
    if limits.nice is not None and limits.nice < min(0, most.nice or 0):
        asked = f"run a job at nice {limits.nice}"
        yield _Wish("limits", asked, f"limits: {{nice: {limits.nice}}}")
    if limits.io is IoShare.HIGH and most.io is not IoShare.HIGH:
        yield _Wish("limits", "run a job at io high", "limits: {io: high}")


_CEILINGS: dict[str, tuple[str, Callable[[float], str]]] = {
    "memory_bytes": ("memory", size_in_words),
    "cpu": ("cpu", share_in_words),
    "cpu_time_s": ("cpu_time", in_words),
    "processes": ("processes", str),
    "open_files": ("open_files", str),
    "file_size_bytes": ("file_size", size_in_words),
    "output_bytes": ("output", size_in_words),
    "artifacts_bytes": ("artifacts", size_in_words),
    "artifact_files": ("artifact_files", str),
}


def _wishes_of_docker(docker: Docker, rule: Rule) -> Iterator[_Wish]:
    if not _matches(docker.image, rule.images):
        yield _Wish("docker", f"run the image {docker.image}", f"images: [{docker.image}]")
    for mount in docker.mounts:
        if not any(_covers(given, mount) for given in rule.mounts):
            asked = f"mount {mount.source}" + ("" if mount.read_only else " for writing")
            yield _Wish("docker", asked, f"mounts: [{mount.source}]")
    network = docker.network
    if network not in (None, NO_NETWORK) and not _matches(network, rule.networks):
        asked = f"attach a container to the network {network}"
        yield _Wish("docker", asked, f"networks: [{network}]")
    if docker.user is not None and docker.user not in rule.container_users:
        asked = f"run a container as {docker.user}"
        yield _Wish("docker", asked, f'container_users: ["{docker.user}"]')
    for capability in docker.cap_add:
        if capability not in rule.capabilities:
            asked = f"give a container the capability {capability}"
            yield _Wish("docker", asked, f"capabilities: [{capability}]")


def _wishes_of_callback(callback: Callback, rule: Rule) -> Iterator[_Wish]:
    if is_channel(callback.url):
        # No pattern for hosts, like *, is meant for channels.
        whom, patterns = callback.url, [each for each in rule.callbacks if ":" in each]
    else:
        whom, patterns = urlsplit(callback.url).hostname or "", [*rule.callbacks]
    if not _matches(whom, patterns):
        yield _Wish("callback", f"have {whom} called back", f'callbacks: ["{whom}"]')
    if callback.secret is not None and not _matches(callback.secret, rule.secrets):
        asked = f"use the secret {callback.secret}"
        yield _Wish("callback", asked, f"secrets: [{callback.secret}]")


def _covers(given: Mount, wanted: Mount) -> bool:
    writable = wanted.read_only or not given.read_only
    return writable and lies_below(wanted.source, given.source)


def _within(spec: JobSpec, rule: Rule) -> JobSpec:
    """What was not asked for is limited as the rule says."""
    most = rule.limits
    if spec.timeout_s is None and most.timeout_s is not None:
        spec = replace(spec, timeout_s=most.timeout_s)
    limits = spec.limits or Limits()
    imposed = {
        name: getattr(most, name)
        for name in _CEILINGS
        if getattr(limits, name) is None and getattr(most, name) is not None
    }
    return replace(spec, limits=replace(limits, **imposed)) if imposed else spec


def _matches(text: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _sentence(wish: _Wish, who: Who) -> str:
    return f"{who} may not {wish.asked}: the policy has no rule for it with `{wish.missing}`"


def _problem(field: str, message: str) -> Problem:
    return Problem(code=field, message=message)
