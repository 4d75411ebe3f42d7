"""The templates of etc/examples, adapted as an administrator would, and used as they say."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from spoolbox import SpoolBox, until

from runnerd.model import Reason, State
from runnerd.outcome import Result

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "etc/examples"
PROGRAM = [sys.executable, "-c", "from runnerd.ctl import main; main(prog_name='runnerctl')"]


def install(box: SpoolBox, name: str, changes: dict[str, str]) -> None:
    """Copy a template, and change what is to be changed in it."""
    text = (EXAMPLES / "jobs.d" / f"{name}.yaml").read_text()
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    box.template(name, text)


def use(box: SpoolBox, name: str, *values: str) -> Result:
    """Submit a job that uses a template, by runnerctl, and wait for its end."""
    command = [*PROGRAM, "--spool", str(box.root), "--config", str(box.config_file)]
    done = subprocess.run(
        [*command, "submit", "--uses", name, "--json", *values],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return box.result(json.loads(done.stdout)["id"])


def use_file(box: SpoolBox, name: str) -> Result:
    """Drop the example that uses a template."""
    return box.run(name, (EXAMPLES / f"{name}.yaml").read_text())


def value(result: Result, name: str) -> str:
    """What a job handed on, whichever of its steps said so."""
    outputs = {**result.outputs}
    for step in result.steps:
        outputs |= step.outputs
    return outputs[name]


# --- create-vhost -------------------------------------------------------------------------------


def vhosts(box: SpoolBox, user: str) -> tuple[Path, Path]:
    """Install create-vhost; where it puts sites and their configuration."""
    sites, configuration = box.scratch / "www", box.scratch / "sites-enabled"
    for each in (sites, configuration):
        each.mkdir(mode=0o755)
    skeleton = box.scratch / "create-vhost"
    shutil.copytree(EXAMPLES / "create-vhost", skeleton)
    install(
        box,
        "create-vhost",
        {
            "user: root": f"user: {user}",
            "SITES: /srv/www": f"SITES: {sites}",
            "VHOSTS: /etc/nginx/sites-enabled": f"VHOSTS: {configuration}",
            "SKELETON: /etc/runnerd/create-vhost": f"SKELETON: {skeleton}",
            "[systemctl, reload, nginx]": f"[touch, {box.scratch}/reloaded]",
        },
    )
    return sites, configuration


def test_a_vhost_is_made_changed_and_left_as_it_is(box: SpoolBox) -> None:
    user = getpass.getuser()
    sites, configuration = vhosts(box, user)
    box.start()
    first = use_file(box, "use-create-vhost")
    assert (first.state, value(first, "changed")) == (State.DONE, "yes"), box.output(first.id)
    assert value(first, "site") == str(sites / "www.example.org")
    file = configuration / "www.example.org.conf"
    lines = file.read_text().splitlines()
    assert lines[0] == f"# of {user}, made by runnerd"
    assert "    server_name www.example.org;" in lines
    assert f"    root {sites}/www.example.org/htdocs;" in lines
    assert "        fastcgi_pass unix:/run/php/php8.3-fpm.sock;" in lines
    assert "        try_files $uri $uri/ =404;" in lines
    assert "@" not in file.read_text()
    page = sites / "www.example.org" / "htdocs" / "index.html"
    assert page.read_text() == (EXAMPLES / "create-vhost/skeleton/htdocs/index.html").read_text()
    assert [each.path for each in first.artifacts] == ["www.example.org.conf"]
    assert (box.scratch / "reloaded").exists()
    page.write_text("mine")
    again = use(box, "create-vhost", "domain=www.example.org")
    assert (again.state, value(again, "changed")) == (State.DONE, "no")
    older = use(box, "create-vhost", "domain=WWW.example.org", "php=8.2")
    assert (older.state, value(older, "changed")) == (State.DONE, "yes")
    assert "php8.2-fpm.sock" in file.read_text()
    assert page.read_text() == "mine"
    assert sorted(os.listdir(sites)) == ["www.example.org"]
    assert sorted(os.listdir(configuration)) == ["www.example.org.conf"]


def test_a_vhost_that_somebody_else_has_is_refused(box: SpoolBox) -> None:
    sites, configuration = vhosts(box, getpass.getuser())
    box.start()
    taken = configuration / "www.example.org.conf"
    taken.write_text("# of somebody-else, made by runnerd\nserver {}\n")
    refused = use(box, "create-vhost", "domain=www.example.org")
    assert refused.reason is Reason.EXIT
    assert "www.example.org.conf is there already, and not of" in box.output(refused.id)
    assert taken.read_text().endswith("server {}\n")
    assert os.listdir(sites) == []
    assert not (box.scratch / "reloaded").exists()


@pytest.mark.parametrize("domain", ["../x", "a/b", "a b", "$(touch x)", "-x", ".", ""])
def test_what_is_no_host_name_never_gets_that_far(box: SpoolBox, domain: str) -> None:
    _, configuration = vhosts(box, getpass.getuser())
    box.start()
    assert use(box, "create-vhost", f"domain={domain}").reason is Reason.INVALID
    assert os.listdir(configuration) == []


def test_a_vhost_that_was_cut_short_is_made_by_the_next(box: SpoolBox) -> None:
    sites, configuration = vhosts(box, getpass.getuser())
    (sites / ".www.example.org.new" / "site").mkdir(parents=True)
    (configuration / ".www.example.org.new").write_text("half")
    box.start()
    assert use_file(box, "use-create-vhost").state is State.DONE
    assert os.listdir(sites) == ["www.example.org"]
    assert os.listdir(configuration) == ["www.example.org.conf"]


# --- issue-invoice ------------------------------------------------------------------------------


def billing(box: SpoolBox, user: str) -> Path:
    """Install issue-invoice; where the invoices are kept."""
    issued = box.scratch / "issued"
    issued.mkdir()
    data = box.scratch / "issue-invoice"
    shutil.copytree(EXAMPLES / "issue-invoice", data)
    install(
        box,
        "issue-invoice",
        {
            "user: billing": f"user: {user}",
            "ORDERS: /srv/billing/orders": f"ORDERS: {data}/orders",
            "ISSUED: /srv/billing/issued": f"ISSUED: {issued}",
            "PAGE: /etc/runnerd/issue-invoice/invoice.html": f"PAGE: {data}/invoice.html",
        },
    )
    return issued


def test_an_invoice_is_issued_once(box: SpoolBox) -> None:
    issued = billing(box, getpass.getuser())
    box.start()
    first = use_file(box, "use-issue-invoice")
    assert first.state is State.DONE, box.output(first.id)
    assert first.outputs == {"total": "51.85", "issued_now": "yes"}
    assert [each.path for each in first.artifacts] == ["invoice-2026-0042.html"]
    page = (issued / "2026-0042.html").read_text()
    assert "Miller &amp; Daughters &lt;Hosting&gt;" in page
    assert "<tr><td>Virtual server, December<td>2<td>19.90<td>39.80" in page
    artifact = box.path("done", first.id, "artifacts", "invoice-2026-0042.html")
    assert artifact.read_text() == page
    order = box.scratch / "issue-invoice" / "orders" / "2026-0042.json"
    order.write_text(order.read_text().replace("19.90", "99.00"))
    again = use(box, "issue-invoice", "number=2026-0042", "days=1")
    assert again.outputs["issued_now"] == "no"
    assert box.path("done", again.id, "artifacts", "invoice-2026-0042.html").read_text() == page
    assert os.listdir(issued) == ["2026-0042.html"]


def test_an_order_that_is_not_there_is_told(box: SpoolBox) -> None:
    issued = billing(box, getpass.getuser())
    box.start()
    missing = use(box, "issue-invoice", "number=2026-0043")
    assert missing.reason is Reason.EXIT
    assert box.output(missing.id) == "there is no order 2026-0043\n"
    for odd in ("../2026-0042", "2026-00421", "2026-0042\n"):
        assert use(box, "issue-invoice", f"number={odd}").reason is Reason.INVALID
    assert os.listdir(issued) == []


# --- deploy-site --------------------------------------------------------------------------------


def deployment(box: SpoolBox, user: str) -> tuple[Path, Path]:
    """Install deploy-site; where sources are, and where sites go."""
    sources, sites = box.scratch / "sources", box.scratch / "sites"
    sources.mkdir(mode=0o755)
    sites.mkdir(mode=0o755)
    shutil.copytree(EXAMPLES / "deploy-site" / "example", sources / "example")
    install(
        box,
        "deploy-site",
        {
            "user: deploy": f"user: {user}",
            "SITES: /srv/sites": f"SITES: {sites}",
            "below: /srv/sources": f"below: {sources}",
        },
    )
    return sources, sites


def test_a_site_is_deployed_and_the_last_releases_are_kept(box: SpoolBox) -> None:
    sources, sites = deployment(box, getpass.getuser())
    box.start()
    releases = []
    for number in range(4):
        (sources / "example" / "number").write_text(f"{number}\n")
        result = use(box, "deploy-site", "site=example", f"source={sources}/example", "keep=2")
        assert result.state is State.DONE, box.output(result.id)
        releases.append(value(result, "release"))
        assert value(result, "previous") == (releases[-2] if number else "")
        assert (sites / "example" / "current").readlink() == Path(releases[-1])
        assert (sites / "example" / "current" / "number").read_text() == f"{number}\n"
        assert {each.path for each in result.artifacts} == {"files.txt", "site.tar.gz"}
        assert value(result, "files") == "3"
        sums = box.path("done", result.id, "artifacts", "files.txt")
        check = ["sha256sum", "--quiet", "--check", str(sums)]
        subprocess.run(check, cwd=sites / "example" / "current", check=True)
    kept = {f"releases/{each}" for each in os.listdir(sites / "example" / "releases")}
    assert kept <= set(releases)
    assert releases[-1] in kept
    assert len(kept) in (2, 3)  # of two in the same second, the current one stays anyhow
    assert sorted(os.listdir(sites / "example")) == ["current", "releases"]


def test_a_source_that_is_not_fit_changes_nothing(box: SpoolBox) -> None:
    sources, sites = deployment(box, getpass.getuser())
    box.start()
    (sources / "leak").mkdir()
    (sources / "leak" / "index.html").symlink_to("/etc/passwd")
    (sources / "elsewhere").symlink_to("/etc")
    (sources / "empty").mkdir()
    for name, why in (
        ("leak", "neither a file nor a directory"),
        ("elsewhere", "a link is in the way"),
        ("empty", "there is no index.html"),
    ):
        result = use(box, "deploy-site", "site=example", f"source={sources}/{name}")
        assert result.reason is Reason.EXIT, name
        assert why in box.output(result.id)
    for odd in ("/etc", f"{sources}/../x", f"{sources}"):
        assert use(box, "deploy-site", "site=x", f"source={odd}").reason is Reason.INVALID
    assert os.listdir(sites) == []


def test_what_a_cut_deployment_left_is_gone_after_the_next(box: SpoolBox) -> None:
    sources, sites = deployment(box, getpass.getuser())
    left = sites / "example" / "releases" / "20200101-000000-x.new"
    left.mkdir(parents=True)
    (sites / "example" / "current.new").symlink_to("releases/nothing")
    box.start()
    assert use(box, "deploy-site", "site=example", f"source={sources}/example").state is State.DONE
    assert not left.exists()
    assert sorted(os.listdir(sites / "example")) == ["current", "releases"]


# --- with real users ----------------------------------------------------------------------------

MEMBER, OTHER, GROUP = "nobody", "games", "nogroup"


@pytest.fixture
def open_box() -> Iterator[SpoolBox]:
    """A spool of root's that ordinary users can reach."""
    scratch = Path(tempfile.mkdtemp(prefix="runnerd-examples-"))
    scratch.chmod(0o755)
    box = SpoolBox(scratch)
    yield box
    box.close()
    shutil.rmtree(scratch)


def drop_as(box: SpoolBox, user: str, name: str, text: str) -> Result:
    """As that user would, who is a member of the group."""
    hidden, shown = box.path("incoming", f".{name}"), box.path("incoming", f"{name}.yaml")
    subprocess.run(
        ["sh", "-c", 'umask 077; cat > "$1" && mv "$1" "$2"', "sh", str(hidden), str(shown)],
        input=text,
        text=True,
        check=True,
        user=user,
        group=GROUP,
        extra_groups=[],
        cwd="/",
    )
    return box.result(name)


def allow(box: SpoolBox, name: str) -> None:
    """For both of them; others than these are still kept out."""
    path = box.scratch / "jobs.d" / f"{name}.yaml"
    text = path.read_text().replace("{groups: [runner]}", f"{{users: [{MEMBER}, {OTHER}]}}")
    path.write_text(text)


@pytest.mark.heavy
@pytest.mark.root
def test_root_makes_vhosts_that_belong_to_who_asked(open_box: SpoolBox) -> None:
    box = open_box
    sites, configuration = vhosts(box, "root")
    allow(box, "create-vhost")
    box.start(group=GROUP)
    text = (EXAMPLES / "use-create-vhost.yaml").read_text()
    made = drop_as(box, MEMBER, "made", text)
    assert made.state is State.DONE, box.output("made")
    assert (made.submitter, made.user) == (MEMBER, "root")
    uid = pwd.getpwnam(MEMBER).pw_uid
    site = sites / "www.example.org"
    assert {each.lstat().st_uid for each in (site, *site.rglob("*"))} == {uid}
    file = configuration / "www.example.org.conf"
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o644)
    before = file.read_text()
    other = drop_as(box, OTHER, "other", text.replace("8.3", "8.2"))
    assert other.reason is Reason.EXIT
    assert f"not of {OTHER}" in box.output("other")
    file.unlink()  # by hand; the site is still its owner's
    other = drop_as(box, OTHER, "again", text)
    assert other.reason is Reason.EXIT
    assert f"{site} is there already, and not of {OTHER}" in box.output("again")
    assert not file.exists()
    assert drop_as(box, MEMBER, "mine", text).state is State.DONE
    assert file.read_text() == before


@pytest.mark.heavy
@pytest.mark.root
def test_a_deployer_and_a_biller_have_rights_that_submitters_have_not(open_box: SpoolBox) -> None:
    box = open_box
    uid = pwd.getpwnam(OTHER).pw_uid
    sources, sites = deployment(box, OTHER)
    issued = billing(box, OTHER)
    for each in (sites, issued):
        os.chown(each, uid, -1)
    orders = box.scratch / "issue-invoice" / "orders"
    orders.chmod(0o700)
    os.chown(orders, uid, -1)
    for name in ("deploy-site", "issue-invoice"):
        allow(box, name)
    box.start(group=GROUP)
    text = (EXAMPLES / "use-deploy-site.yaml").read_text().replace("/srv/sources", str(sources))
    deployed = drop_as(box, MEMBER, "deployed", text)
    assert deployed.state is State.DONE, box.output("deployed")
    assert (sites / "example" / "current" / "index.html").stat().st_uid == uid
    invoice = drop_as(box, MEMBER, "invoice", (EXAMPLES / "use-issue-invoice.yaml").read_text())
    assert invoice.state is State.DONE, box.output("invoice")
    assert (issued / "2026-0042.html").stat().st_uid == uid
    secret = sources / "secret"
    secret.mkdir(mode=0o755)
    (secret / "index.html").write_text("for root")
    (secret / "index.html").chmod(0o600)
    kept = drop_as(box, MEMBER, "kept", text.replace("/example,", "/secret,"))
    assert kept.reason is Reason.EXIT
    until(lambda: not list(sites.rglob("*.new")), "something is left")
    assert "Permission denied" in box.output("kept")
