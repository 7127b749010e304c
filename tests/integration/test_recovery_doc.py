"""docs/recovery.md, word for word: each command is typed where it belongs, each row of its table is brought about."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt
import pytest
from commands import Typed
from main_loop import IDLE, SLOW, Begun, ask_qemu, lookout, stop_main_loop
from observers import (
    Awaited,
    all_of,
    wait_until_pages_come,
    wait_until_pages_flow,
)

import libvirt_postcopy as postcopy
from labkit import Lab
from labkit.network import KERNELS_OWN
from libvirt_postcopy.actions import Note
from libvirt_postcopy.events import PassSeen, Resumed, Side
from scenes.stage import VENV, Stage
from waiting import wait_until

Check = Callable[[], None]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "recovery.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def section(title: str) -> str:
    (body,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    return str(body)


def commands(title: str) -> list[str]:
    """The lines of a section that stand by themselves."""
    blocks = re.findall(r"^```\n(.*?)^```$", section(title), re.M | re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


def rows() -> list[tuple[str, str]]:
    """What the table says of the source and of the destination."""
    _, _, *lines = re.findall(r"^\|(.*)\|$", section("Look"), re.M)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return [(here, there) for here, there, *_ in cells]


def inline() -> list[str]:
    """What stands in the text and can be typed: commands, their options with what they are given, and files."""
    prose = re.sub(r"^```\n.*?^```$", "", TEXT, flags=re.M | re.S)
    quoted = dict.fromkeys(re.findall(r"`([^`\n]+)`", prose))
    return [each for each in quoted if re.match(r"(virsh|ss|libvirt-postcopy)\S* -|--|/", each)]  # fmt: skip


def of_this_lab(line: str, stage: Stage) -> str:
    return line.replace("qemu+tls://", "qemu+tcp://").replace("web1", stage.name)


def typed(line: str, stage: Stage) -> subprocess.CompletedProcess[str]:
    """Type one line, with this lab's names for the document's."""
    return subprocess.run(
        ["bash", "-c", of_this_lab(line, stage)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}"},
    )


def look(stage: Stage) -> list[subprocess.CompletedProcess[str]]:
    return [typed(line, stage) for line in commands("Look")]


def state(stage: Stage, host: str) -> str:
    """What is typed first there says, and no more: a migration goes on meanwhile."""
    return typed(commands("Look")["ab".index(host)], stage).stdout.strip()


# What can have become of the guest


def split(stage: Stage) -> postcopy.Job:
    """Switch, and slowly; nobody will bring it back."""
    seen = Awaited(Resumed, lambda what: what.side is Side.DESTINATION)
    job = postcopy.start(
        stage.start(qemu_args=lookout(stage)),
        "qemu+tcp://b/system",
        policy="after:0",
        params={"bandwidth.postcopy": 8},
        recover="never",
        observer=seen,
    )
    seen.wait()
    wait_until_pages_flow(job)
    return job


@contextmanager
def flowing(stage: Stage) -> Iterator[None]:
    job = split(stage)
    yield
    job.wait(90)


@contextmanager
def broken(stage: Stage) -> Iterator[None]:
    break_off(stage, split(stage))
    # The call ends when the source has noticed.
    wait_until(lambda: "failed" in state(stage, "b"), "the destination's notice", 20)
    yield


def break_off(stage: Stage, job: postcopy.Job) -> None:
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken):
        job.wait(60)


@contextmanager
def stopped_and_broken(stage: Stage) -> Iterator[None]:
    """The guest stops by itself on the destination, as by a disk's error, before the link breaks."""
    job = split(stage)
    with ask_qemu(stage) as qemu:
        qemu.ask("stop")
    wait_until(lambda: state(stage, "b").startswith("paused"), "its stop", 20)
    break_off(stage, job)
    yield


def cut_until_the_source_notices(stage: Stage, job: postcopy.Job) -> None:
    stage.lab.give_up_after(3)
    try:
        stage.lab.cut("b")
        with pytest.raises(postcopy.PostcopyBroken):
            job.wait(90)
    finally:
        stage.lab.uncut("b")
        stage.lab.give_up_after(KERNELS_OWN)


@contextmanager
def half_noticed(stage: Stage) -> Iterator[None]:
    """The destination's QEMU stands still, so that it sends nothing by whose refusal it would hear of it."""
    job = split(stage)
    (qemu,) = stage.qemus("b")
    stage.run("b", ["kill", "-STOP", str(qemu)])
    try:
        wait_until(lambda: unanswered(stage) == 0, "its last request to arrive", 10)
        cut_until_the_source_notices(stage, job)
        yield
    finally:
        stage.run("b", ["kill", "-CONT", str(qemu)])


def unanswered(stage: Stage) -> int:
    """Bytes that the destination has sent, and its kernel may have to send again."""
    words = commands("Make the destination notice")[0].replace("-K ", "-n -H ")
    shown = stage.lab.host("b").run(["bash", "-c", words]).stdout
    return sum(int(line.split()[1]) for line in shown.splitlines())


@contextmanager
def client_lost(stage: Stage) -> Iterator[None]:
    stage.start()
    # It goes on while many a program is started.
    slow = ["--live", "--postcopy-after", "0", "--postcopy-bandwidth", "4"]
    with Typed([*slow, "--verbose"], stage.name) as migrate:
        migrate.wait_for("post-copy, .*blackout")  # it runs on the destination
    wait_until(lambda: "failed" in state(stage, "a"), "libvirt's notice", 20)
    yield


@contextmanager
def arrived(stage: Stage) -> Iterator[None]:
    postcopy.migrate(stage.start(), "qemu+tcp://b/system")
    yield


@contextmanager
def missed(stage: Stage, *, has_disk: bool) -> Iterator[None]:
    """The source's daemon dies before it has noted the switch, and is started again when all is over.

    What it would have noted until then is given back to it, since nobody hits that moment.
    """
    host, there = stage.lab.host("a"), Awaited(Resumed, lambda what: what.side is Side.DESTINATION)  # fmt: skip
    noted = host.path(f"/run/libvirt/qemu/{stage.name}.xml")
    begun = Awaited(PassSeen)

    observe = all_of(begun, there)
    job = postcopy.start(
        with_disk(stage) if has_disk else stage.start(),
        "qemu+tcp://b/system",
        policy="manual",
        flags=libvirt.VIR_MIGRATE_UNSAFE,
        recover="20s",
        observer=observe,
    )
    begun.wait()
    before = noted.read_text()
    job.start_postcopy()
    there.wait()
    host.kill_daemon(restart_after=None)
    noted.write_text(before)
    wait_until(lambda: "migrated" in state(stage, "b"), "its arrival", 30)
    host.start_daemon()
    host.wait_ready()
    if has_disk:
        job.wait(60)
        (shell,) = [note for note in there.of(Note) if "must not be resumed" in note.text]  # fmt: skip
        assert "on the destination" in shell.text
    else:
        with pytest.raises(postcopy.MigrationUnknown, match="do not both run"):
            job.wait(60)
    yield


def with_disk(stage: Stage) -> libvirt.virDomain:
    """One whose disk is locked by the QEMU that runs it."""
    path = stage.lab.shared / f"{stage.name}.disk"
    path.write_bytes(bytes(1 << 20))
    disk = f"<disk type='file'><source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
    xml = stage.xml().replace("<devices>", f"<devices>{disk}")
    domain = stage.connection("a").createXML(xml, 0)
    stage.collector.wait_for_fill(60)
    return domain


@contextmanager
def ended_since(stage: Stage) -> Iterator[None]:
    """It has arrived unnoticed, and its user has shut it down there."""
    with missed(stage, has_disk=True):
        arrived_one = stage.find("b")
        assert arrived_one is not None
        arrived_one.destroy()
        yield


@contextmanager
def broken_before(stage: Stage) -> Iterator[None]:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), "qemu+tcp://b/system", policy="manual", observer=begun
    )
    begun.wait()
    wait_until(stage.lab.break_migrations, "a connection to break", 10)
    with pytest.raises(postcopy.MigrationFailed):
        job.wait(60)
    yield


@contextmanager
def ended(stage: Stage, host: str) -> Iterator[None]:
    """A QEMU of either side is killed: the honest loss."""
    job = split(stage)
    (qemu,) = stage.qemus(host)
    stage.run(host, ["kill", "-KILL", str(qemu)])
    with pytest.raises(postcopy.GuestLost):
        job.wait(60)
    other = "ab".replace(host, "")
    wait_until(lambda: "failed" in state(stage, other), "the other one's notice", 20)
    yield


@contextmanager
def silent(stage: Stage) -> Iterator[None]:
    with broken(stage):
        stage.lab.host("b").kill_daemon(restart_after=None)
        try:
            yield
        finally:
            stage.lab.host("b").start_daemon()
            stage.lab.host("b").wait_ready()


#: By what both say.  Each is left as it is when it has been looked at, and the stage removes it.
SCENES = {
    ("paused (post-copy failed)", "running (post-copy failed)"): broken,
    ("paused (post-copy failed)", "running (post-copy)"): half_noticed,
    ("paused (post-copy failed)", "paused, for a reason of its own (I/O error, watchdog, user), or running again after that (unpaused)"): stopped_and_broken,
    ("paused (post-copy)", "running (post-copy)"): flowing,
    ("paused (post-copy failed)", "running (post-copy), and the list says post-copy"): client_lost,
    ("no such domain, or shut off", "running (migrated)"): arrived,
    ("paused (migrating)", "running (migrated)"): lambda stage: missed(stage, has_disk=True),
    ("paused (migrating)", "no such domain, or shut off"): ended_since,
    ("running", "running (migrated)"): lambda stage: missed(stage, has_disk=False),
    ("running", "no such domain, or shut off"): broken_before,
    ("paused (post-copy failed)", "no such domain, or shut off"): lambda stage: ended(stage, "b"),
    ("no such domain, or shut off", "running (post-copy failed)"): lambda stage: ended(stage, "a"),
    ("one of them does not answer", ""): silent,
}  # fmt: skip


def says(cell: str, shown: subprocess.CompletedProcess[str]) -> bool:
    """Whether virsh has said what a cell of the table has."""
    if cell.startswith("no such domain"):
        is_gone = "failed to get domain" in shown.stderr
        return is_gone or shown.stdout.startswith("shut off")
    words = cell.partition(",")[0]
    is_whole = words.endswith(")")
    said = shown.stdout.strip()
    return said == words if is_whole else said.startswith(words)


@pytest.mark.parametrize("here, there", rows())
def test_row_of_the_table(stage: Stage, here: str, there: str) -> None:
    with SCENES[here, there](stage):
        source, destination, listed = look(stage)
        if not there:
            assert "failed to connect" in destination.stderr
            return
        assert says(here, source), source
        assert says(there, destination), destination
        if "the list says" in there:
            assert "post-copy" in listed.stdout and "broken" not in listed.stdout


def test_list_of_migrations_names_the_next_command(stage: Stage) -> None:
    with broken(stage):
        *_, listed = look(stage)
    assert listed.returncode == 0
    assert "broken" in listed.stdout and "postcopy-recover" in listed.stdout


# What is typed then


def test_nothing_that_can_be_typed_is_left_out() -> None:
    assert set(inline()) == set(INLINE)
    assert set(rows()) == set(SCENES)
    everything = re.findall(r"^```\n(.*?)^```$", TEXT, re.M | re.S)
    lines = [line for block in everything for line in block.strip().splitlines()]
    assert lines == [line for title in TITLES for line in commands(title)]


NO_COMMAND = "When the destination's QEMU takes no command"
SHELL = "When a shell is left"
TITLES = (
    "Look",
    "Bring it back",
    "Watch it",
    "Make the destination notice",
    NO_COMMAND,
    SHELL,
)

#: What stands in the text, and the test that types it.
INLINE = {
    "--postcopy-recover 2h": "test_guest_is_brought_back",
    "--postcopy-recover-bandwidth 0": "test_guest_is_brought_back",
    "--p2p": "test_options_of_the_first_call",
    "--migrateuri": "test_migration_of_virshs_is_brought_back",
    "--listen-address": "test_options_of_the_first_call",
    "--dname": "test_options_of_the_first_call",
    "--tls": "test_options_of_the_first_call",
    "--persistent": "test_migration_of_virshs_is_brought_back",
    "--undefinesource": "test_options_of_the_first_call",
    "--shadow": "test_shadow_only_says_what_it_would_do",
    "--postcopy-monitor-dir": "test_way_round_is_asked_for_beforehand",
    "--postcopy-blocktime": "test_way_round_is_asked_for_beforehand",
    "ss -t -n -p": "test_destination_is_made_to_notice",
    "virsh-postcopy -c qemu+tls://a/system postcopy-check web1 qemu+tls://b/system": "test_preflight",
    "/var/log/libvirt/qemu/web1.log": "test_log_that_tells_why_it_ended",
}  # fmt: skip


@pytest.mark.parametrize("named", sorted(set(INLINE.values())))
def test_each_is_typed_by_a_test_that_is_there(named: str) -> None:
    assert callable(globals()[named])


@pytest.mark.parametrize("more", ["", "--postcopy-recover 2h", "--postcopy-recover-bandwidth 0"])  # fmt: skip
def test_guest_is_brought_back(stage: Stage, moved: Check, more: str) -> None:
    with broken(stage):
        done = typed(f"{commands('Bring it back')[0]} {more}", stage)
    assert done.returncode == 0, done.stderr
    here, there, _ = look(stage)
    assert here.returncode != 0
    assert there.stdout.strip() == "running (migrated)"
    moved()


@contextmanager
def virsh_migrates(stage: Stage, *options: str) -> Iterator[None]:
    """The real virsh, of which no journal is left, until the guest runs on the destination."""
    stage.start()
    words = ["virsh", "-c", "qemu+tcp://a/system", "migrate", "--live", "--postcopy"]
    words += ["--postcopy-after-precopy", "--postcopy-bandwidth", "8", *options]
    words += [stage.name, "qemu+tcp://b/system"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL):
        wait_until(lambda: state(stage, "b") == "running (post-copy)", "the switch", 60)
        wait_until_pages_come(stage.find("a"))
        assert stage.lab.break_migrations() > 0
        yield


def test_migration_of_virshs_is_brought_back(stage: Stage, moved: Check) -> None:
    with virsh_migrates(stage, "--migrateuri", "tcp://b", "--persistent"):
        done = typed(commands("Bring it back")[1], stage)
    assert done.returncode == 0, done.stderr
    moved()
    dom = stage.find("b")
    assert dom is not None and dom.isPersistent()


def test_options_of_the_first_call(stage: Stage, moved: Check) -> None:
    with virsh_migrates(stage, "--p2p", "--listen-address", "0.0.0.0"):
        command = f"{commands('Bring it back')[0]} --p2p --listen-address 0.0.0.0"
        done = typed(f"{command} --undefinesource", stage)
    assert done.returncode == 0, done.stderr
    moved()
    for option in ("--tls", f"--dname {stage.name}"):
        refused = typed(f"{commands('Bring it back')[0]} {option}", stage)
        assert "doesn't support option" not in refused.stderr


def test_migration_of_somebody_else_is_watched_and_mended(
    stage: Stage, moved: Check
) -> None:
    (command,) = commands("Watch it")
    with virsh_migrates(stage):
        done = typed(command, stage)
    assert done.returncode == 0, done.stderr
    moved()


def test_shadow_only_says_what_it_would_do(stage: Stage) -> None:
    (command,) = commands("Watch it")
    with broken(stage):
        done = typed(f"timeout -s INT 10 {command} --shadow", stage)
        assert "would resume the migration" in done.stderr
        here, there, _ = look(stage)
    assert here.stdout.strip() == "paused (post-copy failed)"
    assert there.stdout.strip() == "running (post-copy failed)"


def test_shell_is_not_attached_to_and_can_be_removed(
    stage: Stage, moved: Check
) -> None:
    (command,) = commands(SHELL)
    with missed(stage, has_disk=True):
        refused = typed(commands("Watch it")[0], stage)
        assert refused.returncode == 1, refused.stderr
        assert "neither resume nor migrate it" in refused.stderr
        done = typed(command, stage)
    assert done.returncode == 0, done.stderr
    here, there, _ = look(stage)
    assert here.returncode != 0
    assert there.stdout.strip() == "running (migrated)"
    moved()


def test_destination_is_made_to_notice(stage: Stage, moved: Check) -> None:
    (command,) = commands("Make the destination notice")
    host = stage.lab.host("b")
    with half_noticed(stage):
        shown = host.run(["bash", "-c", "ss -t -n -p"]).stdout
        assert re.search(r":49\d{3}\b.*qemu", shown), shown
        host.run(["bash", "-c", command])
    wait_until(lambda: "failed" in state(stage, "b"), "the destination's notice", 20)
    done = typed(commands("Bring it back")[0], stage)
    assert done.returncode == 0, done.stderr
    moved()


@contextmanager
def standing_still(network: Lab) -> Iterator[Stage]:
    """A broken guest whose destination's QEMU takes no command, and whose break libvirt has noticed there.

    It takes note only when QEMU has answered its order to start the guest.  The guest's first interrupt may stop the
    main loop before that, and nobody can see to it: then there is another guest.
    """
    for _ in range(6):
        with Stage(network, IDLE, name="idle") as idle:
            _stand_still(idle)
            if _is_noticed(idle):
                yield idle
                return
    raise AssertionError("QEMU has never answered libvirt before it stood still")


def _is_noticed(idle: Stage) -> bool:
    with suppress(TimeoutError):
        return wait_until(lambda: "failed" in state(idle, "b"), "the notice", 3)
    return False


def _stand_still(idle: Stage) -> None:
    begun = Begun()
    job = postcopy.start(
        idle.start(qemu_args=lookout(idle)),
        "qemu+tcp://b/system",
        policy="manual",
        params=SLOW,
        recover="never",
        observer=begun,
    )
    begun.wait()
    stop_main_loop(idle)
    with pytest.raises(postcopy.PostcopyBroken):
        job.wait(60)


def test_qemu_that_takes_no_command_is_told_apart(network: Lab, stage: Stage) -> None:
    with broken(stage):
        # It says 0 in the moments in which the main loop has something to do.
        wait_until(lambda: "poll" in _waits_in(stage), "a main loop with leisure", 10)
    with standing_still(network) as idle:
        assert "futex" in _waits_in(idle)
        done = typed(f"{commands('Bring it back')[0]} --postcopy-recover 20", idle)
        assert done.returncode == 3, done.stderr
        assert "does not come back" in done.stderr


def _waits_in(stage: Stage) -> str:
    """Where the kernel says that a destination's main loop waits."""
    (command,) = commands(NO_COMMAND)
    command = of_this_lab(command, stage)
    return str(stage.lab.host("b").run(["bash", "-c", command]).stdout)


def test_preflight(stage: Stage) -> None:
    stage.start()
    (command,) = (each for each in inline() if "postcopy-check" in each)
    done = typed(command, stage)
    assert done.returncode == 0, done.stderr
    assert "0 errors" in done.stdout


@pytest.mark.parametrize("more", ["", "--postcopy-blocktime"])
def test_way_round_is_asked_for_beforehand(
    stage: Stage, moved: Check, more: str
) -> None:
    stage.start()
    done = typed(
        "virsh-postcopy -c qemu+tls://a/system migrate --live --postcopy-after-precopy"
        f" --postcopy-monitor-dir {stage.lab.shared} {more} web1 qemu+tls://b/system",
        stage,
    )
    assert done.returncode == 0, done.stderr
    assert "no second monitor" not in done.stderr
    moved()


def test_log_that_tells_why_it_ended(stage: Stage) -> None:
    (path,) = (each for each in inline() if each.startswith("/"))
    with ended(stage, "b"):
        for host in ("a", "b"):
            shown = stage.run(host, ["cat", of_this_lab(path, stage)])
            assert "-incoming" in shown.stdout or host == "a", shown.stderr


@pytest.mark.parametrize(
    "host, which", [("a", "half on the source"), ("b", "half on the destination")]
)
def test_loss_is_told_with_the_half_that_is_gone(
    stage: Stage, host: str, which: str
) -> None:
    """By a client that has attached, and has no call that could tell."""
    with client_lost(stage), Typed(["--verbose"], stage.name, "postcopy-attach") as on:
        on.wait_for("post-copy")
        (qemu,) = stage.qemus(host)
        stage.run(host, ["kill", "-KILL", str(qemu)])
        code, text = on.end()
    assert code == 4, text
    assert f"'{stage.name}' is lost: its {which}" in text
    assert "destroy neither half before you have seen both hosts" in text
