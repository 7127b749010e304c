"""What is asked of libvirt and QEMU before a migration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libvirt_postcopy.constants import DomainState, ErrorNumber
from libvirt_postcopy.domxml import CPU, Guest, read_guest
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.vir import calls, probe
from unit.fakes import NO_ANSWER, NO_DOMAIN, OTHER_UUID, UUID, refused
from unit.preflight.daemon import DENIED, GUEST_XML, Daemon
from unit.preflight.daemon import Guest as Running

PROBE_UUID = "11111111-2222-4333-8444-555555555555"
PROBE_XML = f"<domain><uuid>{PROBE_UUID}</uuid></domain>"
GUEST = read_guest(GUEST_XML)


# Hosts


def test_memory_counts_what_caches_would_give_up() -> None:
    assert probe.memory(Daemon()) == (8000, 1320)


@pytest.mark.parametrize("error", [refused(ErrorNumber.VIR_ERR_NO_SUPPORT, "no"), KeyError("total")])  # fmt: skip
def test_memory_where_the_driver_has_no_statistics(error: Exception) -> None:
    host = Daemon()
    host.errors["getMemoryStats"] = error
    assert probe.memory(host) == (4096 * 1024, 1 << 20)


def test_version_of_another_driver_is_not_qemus() -> None:
    host = Daemon()
    assert probe.installed_qemu_version(host) == 10_001_000
    host.getType = lambda: "Xen"  # type: ignore[method-assign]
    with pytest.raises(LibvirtError, match="Xen, not QEMU"):
        probe.installed_qemu_version(host)


def test_free_pages_of_all_cells() -> None:
    host = Daemon()
    host.pages = {0: {2048: 3}, 1: {2048: 4}}
    assert probe.free_pages(host, [2048]) == {2048: 7}


def test_pages_that_the_kernel_does_not_have() -> None:
    host = Daemon()
    host.errors["getFreePages"] = refused(
        ErrorNumber.VIR_ERR_OPERATION_FAILED, "page size is not available"
    )
    assert probe.free_pages(host, [2048, 1 << 20]) == {2048: 0, 1 << 20: 0}


def test_pages_that_cannot_be_asked_for() -> None:
    host = Daemon()
    host.errors["getFreePages"] = NO_ANSWER
    with pytest.raises(LibvirtError):
        probe.free_pages(host, [2048])


def test_emulation_is_asked_for_by_the_guests_own_names() -> None:
    host = Daemon()
    assert probe.emulation_refusal(host, GUEST) == ""
    assert probe.emulation_refusal(host, Guest("")) == ""
    assert host.asked == [
        ("/usr/bin/qemu", "x86_64", "pc-i440fx-7.2", "qemu"),
        (None, None, None, "qemu"),
    ]


@pytest.mark.parametrize(
    "code, words",
    [
        (ErrorNumber.VIR_ERR_INVALID_ARG, "the machine 'x' is not supported by emulator 'q'"),
        (ErrorNumber.VIR_ERR_SYSTEM_ERROR, "Cannot check QEMU binary q: No such file or directory"),
        (ErrorNumber.VIR_ERR_CONFIG_UNSUPPORTED, "unsupported"),
    ],
)  # fmt: skip
def test_emulation_that_the_host_refuses(code: int, words: str) -> None:
    host = Daemon()
    host.errors["getDomainCapabilities"] = refused(code, words)
    assert probe.emulation_refusal(host, GUEST) == words


@pytest.mark.parametrize(
    "error",
    [
        DENIED,
        NO_ANSWER,
        refused(ErrorNumber.VIR_ERR_SYSTEM_ERROR, "Cannot recv data", domain=7),
        refused(ErrorNumber.VIR_ERR_NO_SUPPORT, "not by this driver"),
    ],
)
def test_a_host_that_does_not_answer_refuses_nothing(error: Exception) -> None:
    host = Daemon()
    host.errors["getDomainCapabilities"] = error
    host.errors["compareHypervisorCPU"] = error
    for ask in (probe.emulation_refusal, probe.cpu_refusal):
        with pytest.raises(LibvirtError):
            ask(host, GUEST)


def test_cpu_is_compared_with_what_the_hypervisor_gives() -> None:
    host = Daemon()
    assert probe.cpu_refusal(host, GUEST) == ""
    assert GUEST.cpu is not None
    assert host.asked == [("/usr/bin/qemu", "x86_64", "pc-i440fx-7.2", "qemu", GUEST.cpu.xml, 1)]  # fmt: skip
    host.errors["compareHypervisorCPU"] = refused(
        ErrorNumber.VIR_ERR_CPU_INCOMPATIBLE, "Host CPU does not provide avx512f"
    )
    assert probe.cpu_refusal(host, GUEST) == "Host CPU does not provide avx512f"


def test_guest_without_cpu_is_not_compared() -> None:
    host = Daemon()
    assert probe.cpu_refusal(host, replace(GUEST, cpu=None)) == ""
    assert probe.cpu_refusal(host, replace(GUEST, cpu=CPU("host-model", "", "<cpu/>"))) == ""  # fmt: skip
    assert len(host.asked) == 1


# The domain


@pytest.mark.parametrize("text", ["7", "web1", UUID, UUID.upper()])
def test_domain_by_id_uuid_and_name(text: str) -> None:
    host = Daemon()
    other = Running(host, OTHER_UUID)
    other.number = -1
    other.name = lambda: "db1"  # type: ignore[method-assign]
    dom = Running(host)
    assert probe.named_domain(host, text) is dom


def test_id_goes_before_name() -> None:
    host = Daemon()
    named, numbered = Running(host, OTHER_UUID), Running(host)
    named.number = 3
    named.name = lambda: "7"  # type: ignore[method-assign]
    assert probe.named_domain(host, "7") is numbered


def test_domain_that_is_not_there() -> None:
    with pytest.raises(LibvirtError, match="no domain 'nobody'"):
        probe.named_domain(Daemon(), "nobody")


@pytest.mark.parametrize("state, paused", [(DomainState.VIR_DOMAIN_PAUSED, True), (DomainState.VIR_DOMAIN_RUNNING, False)])  # fmt: skip
def test_pause(state: int, paused: bool) -> None:
    assert calls.is_paused(Running(Daemon(), state=(state, 1))) is paused


def test_job_that_cannot_be_asked_for_is_not_none() -> None:
    dom = Running(Daemon())
    assert probe.has_job(dom) is False
    dom.job = {"type": 2}
    assert probe.has_job(dom) is True
    dom.errors["jobStats"] = NO_ANSWER
    with pytest.raises(LibvirtError):
        probe.has_job(dom)


def test_qemus_lists(monitor: None) -> None:
    dom = Running(Daemon())
    assert probe.migration_capabilities(dom) == {"postcopy-ram"}
    assert probe.migration_blockers(dom) == ()
    dom.answers["query-migrate"] = {"blocked-reasons": ["9p", "SEV"]}
    assert probe.migration_blockers(dom) == ("9p", "SEV")
    assert dom.commands[:2] == [
        {"execute": "query-migrate-capabilities"},
        {"execute": "query-migrate"},
    ]


def test_qemu_that_refuses_a_question(monitor: None) -> None:
    dom = Running(Daemon())
    dom.answers["query-migrate"] = "no such command"
    with pytest.raises(LibvirtError, match="no such command"):
        probe.migration_blockers(dom)


# The probe


def ask(host: Daemon) -> probe.QemuThere:
    return probe.ask_qemu(host, "p-1", PROBE_UUID, PROBE_XML)


@pytest.fixture
def host() -> Daemon:
    """Has a guest of somebody else."""
    made = Daemon()
    Running(made)
    return made


def assert_only_the_guest_is_left(host: Daemon) -> None:
    assert [each.uuid for each in host.domains] == [UUID]
    assert host.domains[0].calls == [], "somebody else's domain was touched"


def test_probe_is_started_paused_and_destroyed(host: Daemon, monitor: None) -> None:
    answer = ask(host)
    assert answer == probe.QemuThere(7_002_022, frozenset(("postcopy-ram",)), "")
    # VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY
    assert host.created == [(PROBE_XML, 3)]
    assert_only_the_guest_is_left(host)


def test_probe_asks_for_postcopy(host: Daemon, monitor: None) -> None:
    made: list[Running] = []
    host.on_create = lambda: made.append(host.domains[-1])  # type: ignore[arg-type]
    ask(host)
    assert made[0].commands[-1] == {
        "execute": "migrate-set-capabilities",
        "arguments": {
            "capabilities": [{"capability": "postcopy-ram", "state": True}]
        },
    }  # fmt: skip


def test_refusal_of_qemu_is_an_answer(host: Daemon, monitor: None) -> None:
    host.probe_answers = {"migrate-set-capabilities": "Postcopy is not supported"}
    assert ask(host).refusal == "Postcopy is not supported"
    assert_only_the_guest_is_left(host)


def test_probe_that_cannot_be_started(host: Daemon) -> None:
    host.errors["createXML"] = DENIED
    with pytest.raises(LibvirtError, match="read only") as caught:
        ask(host)
    assert "destroyed" not in str(caught.value)
    assert_only_the_guest_is_left(host)


@pytest.mark.parametrize("command", ["query-version", "query-migrate-capabilities", "migrate-set-capabilities"])  # fmt: skip
@pytest.mark.parametrize(
    "error, raised",
    [(NO_ANSWER, LibvirtError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_probe_is_destroyed_whenever_it_fails(
    host: Daemon,
    monitor: None,
    command: str,
    error: BaseException,
    raised: type[BaseException],
) -> None:
    host.probe_answers = {command: error}
    with pytest.raises(raised):
        ask(host)
    assert len(host.created) == 1
    assert_only_the_guest_is_left(host)


def test_probe_that_was_half_started_is_destroyed(host: Daemon) -> None:
    """The daemon made it, and the answer never came."""

    def lost() -> None:
        raise NO_ANSWER

    host.on_create = lost
    with pytest.raises(LibvirtError):
        ask(host)
    assert_only_the_guest_is_left(host)


def refuse_destroy(host: Daemon, error: Exception) -> None:
    def refuse() -> None:
        host.domains[-1].errors["destroy"] = error

    host.on_create = refuse


def test_probe_that_stays_is_told(host: Daemon, monitor: None) -> None:
    refuse_destroy(host, DENIED)
    assert ask(host).left_behind == "p-1"


def test_probe_that_fails_and_stays_is_told(host: Daemon, monitor: None) -> None:
    refuse_destroy(host, DENIED)
    host.probe_answers = {"query-version": NO_ANSWER}
    with pytest.raises(LibvirtError, match="'p-1' could not be destroyed"):
        ask(host)


def test_probe_that_is_gone_by_itself_is_well(host: Daemon, monitor: None) -> None:
    refuse_destroy(host, NO_DOMAIN)
    assert ask(host).left_behind == ""
