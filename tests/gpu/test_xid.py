"""XIDs are counted once each, for the right GPU, whoever saw them."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from gpumon.catalog.xids import XIDS
from gpumon.gpu.xid import RECENT_EVENTS, WINDOW_SECONDS, Source, XidLog, pci_address

UUID = "GPU-0e7a2f4c-5a1d-4a8e-9b57-6a3f6c1d2e90"
OTHER_UUID = "GPU-6c9d0b1e-2f3a-4b5c-8d7e-9f0a1b2c3d4e"
NVML_PCI, KMSG_PCI = "00000000:3B:00.0", "0000:3b:00"
OTHER_PCI = "00000000:86:00.0"

SOURCES = st.sampled_from(["nvml", "kmsg"])


def log_of(uuid: str = UUID, pci: str = NVML_PCI) -> XidLog:
    """Make a log that knows one GPU."""
    log = XidLog()
    log.register(uuid, pci)
    return log


def test_an_xid_that_both_sources_report_is_counted_once() -> None:
    """NVML names the GPU by UUID, the kernel log by PCI address; seconds may lie between them."""
    log = log_of()
    log.seen(KMSG_PCI, 79, 100.0, "kmsg")
    log.seen(UUID, 79, 102.5, "nvml")
    assert log.counts(UUID) == {79: 1}
    assert log.last_time(UUID) == 100.0
    assert [(event.device, event.code) for event in log.recent()] == [(UUID, 79)]


def test_the_same_xid_twice_from_one_source_is_two() -> None:
    """A code that comes again is not hidden by the one before."""
    log = log_of()
    for time in (100.0, 100.1):
        log.seen(KMSG_PCI, 31, time, "kmsg")
    for time in (100.2, 100.3):
        log.seen(UUID, 31, time, "nvml")
    assert log.counts(UUID) == {31: 2}


def test_sightings_further_apart_than_the_window_are_two_xids() -> None:
    """What the other source reports much later is another XID."""
    log = log_of()
    log.seen(KMSG_PCI, 31, 100.0, "kmsg")
    log.seen(UUID, 31, 100.0 + WINDOW_SECONDS + 0.1, "nvml")
    assert log.counts(UUID) == {31: 2}


def test_codes_and_devices_are_counted_apart() -> None:
    """Neither another code nor another GPU is taken for the second sighting."""
    log = log_of()
    log.register(OTHER_UUID, OTHER_PCI)
    log.seen(KMSG_PCI, 31, 100.0, "kmsg")
    log.seen(UUID, 43, 100.0, "nvml")
    log.seen(OTHER_UUID, 31, 100.0, "nvml")
    assert log.counts(UUID) == {31: 1, 43: 1}
    assert log.counts(OTHER_UUID) == {31: 1}


def test_an_xid_seen_before_its_gpu_is_known_is_kept_for_it() -> None:
    """The kernel may report while the driver is still being opened."""
    log = XidLog()
    log.seen(KMSG_PCI, 119, 100.0, "kmsg")
    assert [event.device for event in log.recent()] == [NVML_PCI]
    log.register(UUID, NVML_PCI)
    log.seen(UUID, 119, 101.0, "nvml")
    assert log.counts(UUID) == {119: 1}
    assert [event.device for event in log.recent()] == [UUID]


def test_a_sighting_by_uuid_and_one_by_a_still_unknown_address_are_one_once_the_address_is_known() -> None:
    """Whatever comes first, registration or sightings, the count is the same."""
    log = XidLog()
    log.seen(UUID, 48, 100.0, "nvml")
    log.seen(KMSG_PCI, 48, 101.0, "kmsg")
    log.register(UUID, NVML_PCI)
    assert log.counts(UUID) == {48: 1}


def test_counts_survive_that_the_gpu_is_opened_anew() -> None:
    """A reset of the GPU does not reset its counters."""
    log = log_of()
    log.seen(UUID, 95, 100.0, "nvml")
    log.register(UUID, NVML_PCI)
    assert log.counts(UUID) == {95: 1}


def test_a_gpu_that_moved_to_another_address_takes_its_counts_along() -> None:
    """And the GPU that is at the old address now starts from nothing."""
    log = log_of()
    log.seen(KMSG_PCI, 95, 100.0, "kmsg")
    log.register(OTHER_UUID, NVML_PCI)
    log.register(UUID, OTHER_PCI)
    log.seen(KMSG_PCI, 13, 200.0, "kmsg")
    assert (log.counts(UUID), log.counts(OTHER_UUID)) == ({95: 1}, {13: 1})


def test_a_gpu_without_xids_has_no_last_time() -> None:
    """Absent, not 0."""
    assert log_of().last_time(UUID) is None
    assert log_of().counts(UUID) == {}


def test_a_clock_that_was_set_back_does_not_make_every_xid_count_twice() -> None:
    """Unpaired sightings from the future are let go of."""
    log = log_of()
    log.seen(KMSG_PCI, 31, 10_000.0, "kmsg")
    log.seen(KMSG_PCI, 31, 100.0, "kmsg")
    log.seen(UUID, 31, 101.0, "nvml")
    assert log.counts(UUID) == {31: 2}


def test_memory_stays_bounded_whatever_is_logged() -> None:
    """Neither many events nor many unknown addresses are kept without end."""
    log = log_of()
    for i in range(10 * RECENT_EVENTS):
        log.seen(f"{i:08x}:01:00.0", 13, float(i), "kmsg")
    for _ in range(20_000):
        log.seen(UUID, 31, 100.0, "kmsg")
    assert len(log.recent()) == RECENT_EVENTS
    assert len(log._tallies) <= 66
    assert sum(len(times) for times in log._tallies[UUID][31].unpaired.values()) <= 4096
    assert log.counts(UUID) == {31: 20_000}


def test_every_event_says_what_it_means_and_what_to_do() -> None:
    """Also one whose code is not known."""
    log = log_of()
    log.seen(UUID, 79, 1.0, "nvml")
    log.seen(UUID, 9999, 2.0, "nvml")
    fallen, unknown = log.recent()
    assert "fallen off the bus" in fallen.meaning
    assert "restart" in fallen.advice
    assert unknown.meaning
    assert "catalogue" in unknown.advice
    assert all(xid.meaning and xid.advice.endswith(".") for xid in XIDS.values())


@given(domain=st.integers(0, 0xFFFF), bus=st.integers(0, 255), device=st.integers(0, 31))
def test_every_form_of_a_pci_address_is_the_same_address(domain: int, bus: int, device: int) -> None:
    """NVML, the kernel log, /proc and nvidia-smi write it differently."""
    tail = f"{bus:02x}:{device:02x}"
    forms = (
        f"{domain:04x}:{tail}",
        f"{domain:04x}:{tail}.0",
        f"{domain:08X}:{tail.upper()}.0",
        f" {domain:08x}:{tail}\n",
    )
    assert {pci_address(form) for form in forms} == {f"{domain:08X}:{tail.upper()}.0"}


@given(st.text())
def test_no_text_makes_the_address_parser_fail(text: str) -> None:
    """None, or an address in NVML's form that is its own normal form."""
    address = pci_address(text)
    assert address is None or pci_address(address) == address


@given(st.lists(st.tuples(SOURCES, st.floats(0, WINDOW_SECONDS))), st.integers(0, 60))
def test_within_a_window_the_count_is_that_of_the_source_that_saw_more(
    sightings: list[tuple[Source, float]], registered_after: int
) -> None:
    """Any interleaving, and whenever the GPU becomes known."""
    log = XidLog()
    for i, (source, time) in enumerate(sightings):
        if i == registered_after:
            log.register(UUID, NVML_PCI)
        log.seen(UUID if source == "nvml" else KMSG_PCI, 31, time, source)
    log.register(UUID, NVML_PCI)
    seen = [source for source, _ in sightings]
    assert log.counts(UUID).get(31, 0) == max(seen.count("nvml"), seen.count("kmsg"))


@given(st.lists(st.tuples(SOURCES, st.sampled_from([13, 31]), st.floats(0, 100)), max_size=60), st.booleans())
def test_the_count_is_never_less_than_either_source_saw_nor_more_than_both_together(
    sightings: list[tuple[Source, int, float]], in_order: bool
) -> None:
    """Whatever the times, in order or not."""
    log = log_of()
    for source, code, time in sorted(sightings, key=lambda sighting: sighting[2]) if in_order else sightings:
        log.seen(UUID if source == "nvml" else KMSG_PCI, code, time, source)
    for code in (13, 31):
        seen = [source for source, of, _ in sightings if of == code]
        count = log.counts(UUID).get(code, 0)
        assert max(seen.count("nvml"), seen.count("kmsg")) <= count <= len(seen)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_bursts_apart_from_each_other_add_up(bursts: list[tuple[int, int]]) -> None:
    """Each burst counts what its better source saw."""
    log = log_of()
    for i, (by_nvml, by_kmsg) in enumerate(bursts):
        start = 100.0 * i
        for _ in range(by_kmsg):
            log.seen(KMSG_PCI, 31, start, "kmsg")
        for _ in range(by_nvml):
            log.seen(UUID, 31, start + 1, "nvml")
    assert log.counts(UUID).get(31, 0) == sum(max(burst) for burst in bursts)


def test_sightings_from_many_threads_are_all_counted() -> None:
    """The event thread, the loop and device threads use one log."""
    log = log_of()
    started = threading.Barrier(4)

    def see(source: Source, device: str) -> None:
        started.wait()
        for _ in range(500):
            log.seen(device, 31, 100.0, source)
            log.counts(UUID)

    threads = [threading.Thread(target=see, args=("nvml", UUID)) for _ in range(2)]
    threads += [threading.Thread(target=see, args=("kmsg", KMSG_PCI)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.counts(UUID) == {31: 1000}
