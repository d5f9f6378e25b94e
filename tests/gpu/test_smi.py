"""GPUs are read by nvidia-smi as well, whatever its version knows, and whatever goes wrong with it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gpu.fake_smi import NEW_FIELDS, OLD_FIELDS, OLD_ROW_FIELDS, Machine, a100_old, h100, rtx4090

from gpumon.catalog import FAN, GPU, GPU_DOWN, GPU_HEALTH, GPU_INFO, KINDS, SUPPORT, Entity, EntityKind
from gpumon.gpu.smi import NvidiaSmi, SmiError, SmiReading
from gpumon.gpu.smi_fields import (
    IDENTITY,
    NAME,
    SMI_FIELDS,
    UNITS,
    WANTED,
    SmiField,
    absence,
    known_fields,
    parse_cell,
)
from gpumon.gpu.smi_output import parse
from gpumon.gpu.xid import XidLog

T = TypeVar("T")
LOST = "Unable to determine the device handle for GPU ADDRESS: GPU is lost.  Reboot the system to recover this GPU"
LOST_REASON = "GPU is lost. Reboot the system to recover this GPU"


def run(coroutine: Coroutine[object, object, T]) -> T:
    """Run on a loop that must end in time."""

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(bounded())


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def smi_of(machine: Machine, **options: object) -> NvidiaSmi:
    """Make a reader of the machine, with a time-out that no ordinary run meets."""
    return NvidiaSmi(
        str(machine.command),
        **{"timeout_seconds": 20.0, "devices_path": machine.folder / "none", **options},  # type: ignore[arg-type]
    )


def read(machine: Machine, **options: object) -> SmiReading:
    """Read the machine once."""
    return run(smi_of(machine, **options).read())


def of(reading: SmiReading, kind: EntityKind) -> list[Entity]:
    """Give a reading's entities of one kind."""
    return [entity for entity in reading.entities if entity.kind is kind]


def reasons(reading: SmiReading, uuid: str | None = None) -> dict[str, tuple[str, float | None]]:
    """Give reason and value of every reading that is said to be missing or estimated."""
    return {
        entity.label("reading"): (entity.label("reason"), entity.values[0])
        for entity in of(reading, SUPPORT)
        if uuid is None or entity.label("gpu_uuid") == uuid
    }


@pytest.fixture
def h100s(tmp_path: Path) -> Machine:
    """Two H100 on a driver of 2026."""
    return Machine(tmp_path, [h100(0), h100(1)], NEW_FIELDS)


# What is read.


def test_every_number_is_given_in_the_catalogues_units(h100s: Machine) -> None:
    """MiB become bytes, MHz hertz, microseconds seconds; words become numbers."""
    reading = read(h100s)
    gpu = of(reading, GPU)[0]
    assert gpu.labels == ("0", "NVIDIA H100 80GB HBM3", "GPU-7d3c1a50-90e2-4f6b-8c1e-000000000000")
    expected = {
        "utilization_gpu": 97,
        "memory_utilization_percent": 41,
        "memory_used": 70210 * 1024 * 1024,
        "memory_total": 81559 * 1024 * 1024,
        "memory_reserved_bytes": 479 * 1024 * 1024,
        "protected_memory_used_bytes": 0,
        "temperature": 64,
        "temperature_margin_celsius": 23,
        "memory_temperature_celsius": 71,
        "power": 684.2,
        "power_instant_watts": 691.75,
        "power_limit_enforced_watts": 650,
        "power_limit_requested_watts": 700,
        "power_limit_min_watts": 200,
        "clock_sm_hertz": 1.755e9,
        "clock_max_memory_hertz": 2.619e9,
        "performance_state": 0,
        "throttle_active_sw_power_cap": 1,
        "throttle_active_hw_slowdown": 0,
        "throttle_sw_power_cap_seconds_total": pytest.approx(200.740215),
        "throttle_hw_thermal_seconds_total": pytest.approx(0.0015),
        "pcie_link_generation_current": 5,
        "pcie_link_width_max": 16,
        "fabric_state": 3,
        "ecc_errors_corrected_aggregate_total": 17,
        "ecc_errors_uncorrected_volatile_total": 0,
        "remapped_rows_corrected_total": 2,
        "row_remap_pending": 1,
        "row_remap_failure": 0,
        "row_remap_banks_high": 2,
        "recovery_action": 0,
        "energy_integrated_joules_total": 0,
        "busy_polled_seconds_total": 0,
    }
    assert {name: gpu[name] for name in expected} == expected
    assert reading.gpu_count == 2
    assert reading.success
    assert reading.errors == ()


def test_every_entity_is_of_a_declared_kind_and_has_all_its_labels_and_columns(h100s: Machine) -> None:
    """Sinks rely on it."""
    for entity in read(h100s).entities:
        assert entity.kind in KINDS
        assert len(entity.labels) == len(entity.kind.labels)
        assert len(entity.values) == len(entity.kind.columns)
        assert all(value is None or isinstance(value, float) for value in entity.values)


def test_what_a_gpu_is_stands_in_labels(h100s: Machine) -> None:
    """Unknown ones are empty."""
    info = of(read(h100s), GPU_INFO)[1]
    assert {label.name: info.label(label.name) for label in GPU_INFO.labels} == {
        "gpu_id": "1",
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "gpu_uuid": "GPU-7d3c1a50-90e2-4f6b-8c1e-000000000001",
        "driver_version": "595.80",
        "cuda_version": "",
        "pci_bus_id": "00000000:19:00.0",
        "serial": "1653024000001",
        "vbios_version": "96.00.99.00.01",
        "architecture": "Hopper",
        "minor_number": "",
        "numa_node": "",
        "memory_kind": "dedicated",
        "mig_mode": "disabled",
        "ecc_mode": "enabled",
        "persistence_mode": "enabled",
    }


def test_what_a_gpu_does_not_have_is_absent_and_the_reason_is_said(tmp_path: Path) -> None:
    """No zero, no NaN, and each reading is named once."""
    reading = read(Machine(tmp_path, [rtx4090()], NEW_FIELDS))
    (gpu,) = of(reading, GPU)
    told = reasons(reading)
    for column, name, reason in (
        ("memory_temperature_celsius", "gpumon_gpu_memory_temperature_celsius", "N/A"),
        ("ofa_utilization_percent", "gpumon_gpu_ofa_utilization_percent", "Not Supported"),
        ("power_instant_watts", "gpumon_gpu_power_instant_watts", "Unknown Error"),
        ("power_limit_min_watts", "gpumon_gpu_power_limit_watts{limit=min}", "Insufficient Permissions"),
        (
            "ecc_errors_corrected_volatile_total",
            "gpumon_gpu_ecc_errors_total{severity=corrected,scope=volatile}",
            "N/A",
        ),
        ("fabric_state", "gpumon_gpu_fabric_state", "N/A"),
        ("sm_active_ratio", "gpumon_gpu_sm_active_ratio", "not given by nvidia-smi"),
        ("energy_driver_joules_total", "gpumon_gpu_energy_joules_total{method=driver}", "not given by nvidia-smi"),
    ):
        assert gpu[column] is None
        assert told[name] == (reason, 0)
    assert len(of(reading, SUPPORT)) == len(told)
    absent = [column.name for column in GPU.columns if gpu[column.name] is None]
    assert len([name for name in told if not name.startswith("gpumon_gpu_nvlink_up")]) >= len(absent)


def test_what_is_estimated_says_so(h100s: Machine) -> None:
    """nvidia-smi has no energy counter and no sample buffer."""
    told = reasons(read(h100s), h100(0)["uuid"])
    assert told["gpumon_gpu_energy_joules_total{method=integrated}"] == ("estimated: gpumon_gpu_power_watts", 1)
    assert told["gpumon_gpu_busy_seconds_total{method=polled}"] == ("estimated: gpumon_gpu_utilization_percent", 1)


def test_where_the_preferred_field_has_no_value_the_next_one_is_used(tmp_path: Path) -> None:
    """Power without a mean, a link generation by its old name."""
    (gpu,) = of(read(Machine(tmp_path, [rtx4090()], NEW_FIELDS)), GPU)
    assert gpu["power"] == 21.05
    assert gpu["pcie_link_generation_current"] == 1


def test_a_fan_is_an_entity_of_its_own(tmp_path: Path) -> None:
    """And a GPU without one has none."""
    reading = read(Machine(tmp_path, [rtx4090(), h100(1)], NEW_FIELDS))
    (fan,) = of(reading, FAN)
    assert (fan.label("gpu_name"), fan.label("fan"), fan["fan_speed_percent"]) == ("NVIDIA GeForce RTX 4090", "0", 30)
    assert reasons(reading, h100(1)["uuid"])["gpumon_gpu_fan_speed_percent"] == ("N/A", 0)


def test_a_partitioned_gpu_says_that_its_instances_are_not_read(tmp_path: Path) -> None:
    """Utilisation is not to be had then, and nvidia-smi's queries give no MIG device."""
    cells = {**h100(0), "mig.mode.current": "Enabled", "utilization.gpu": "[N/A]"}
    reading = read(Machine(tmp_path, [cells], NEW_FIELDS))
    told = reasons(reading)
    assert told["gpumon_mig_memory_used_bytes"] == ("not given by nvidia-smi", 0)
    assert told["gpumon_gpu_utilization_percent"] == ("N/A", 0)
    assert told["gpumon_gpu_busy_seconds_total{method=polled}"] == ("not given by nvidia-smi", 0)
    assert of(reading, GPU_INFO)[0].label("mig_mode") == "enabled"


def test_a_name_with_commas_is_one_name(tmp_path: Path) -> None:
    """nvidia-smi quotes nothing."""
    cells = {**h100(0), "name": "NVIDIA Quadro, special, edition"}
    (gpu,) = of(read(Machine(tmp_path, [cells], NEW_FIELDS)), GPU)
    assert gpu.label("gpu_name") == "NVIDIA Quadro, special, edition"
    assert gpu["power"] == 684.2


# Which fields are asked for.


def test_an_old_version_is_asked_for_what_it_knows(tmp_path: Path) -> None:
    """Throttle reasons have their old name; what it does not know is said to be so."""
    machine = Machine(tmp_path, [a100_old()], OLD_FIELDS, OLD_ROW_FIELDS)
    reading = read(machine)
    (gpu,) = of(reading, GPU)
    assert gpu["throttle_active_sw_power_cap"] == 1
    assert gpu["power"] == 684.2
    assert reasons(reading)["gpumon_gpu_power_instant_watts"] == ("not known to this version of nvidia-smi", 0)


def test_remapped_rows_are_read_by_their_own_query_where_they_have_one_and_rarely(tmp_path: Path) -> None:
    """They change by the month, and the second child costs as much as the first."""
    machine = Machine(tmp_path, [a100_old()], OLD_FIELDS, OLD_ROW_FIELDS)
    clock = Clock()
    smi = smi_of(machine, clock=clock)

    async def main() -> list[SmiReading]:
        readings = []
        for _ in range(20):
            readings.append(await smi.read())
            clock.now += 2
        return readings

    readings = run(main())
    for reading in readings:
        (gpu,) = of(reading, GPU)
        assert (gpu["remapped_rows_uncorrected_total"], gpu["row_remap_pending"]) == (1, 1)
    assert machine.calls.count("--query-gpu") == 20
    assert machine.calls.count("--query-remapped-rows") == 2


def test_what_is_known_is_asked_once_and_again_after_a_failure(h100s: Machine) -> None:
    """A driver that was replaced may know other fields."""
    smi = smi_of(h100s)

    async def main() -> None:
        await smi.read()
        await smi.read()
        assert h100s.calls.count("--help-query-gpu") == 1
        h100s.set(fields=OLD_FIELDS)
        assert not (await smi.read()).success
        assert (await smi.read()).success
        assert h100s.calls.count("--help-query-gpu") == 2

    run(main())


def test_of_several_names_of_a_field_one_is_asked_for() -> None:
    """And lines of explanation are no fields."""
    text = '"power.draw.average" or "gpu.power.draw.average"\nmean\n\n"0: Default" means\n"uuid" or "gpu_uuid"\n"new"\n'
    assert known_fields(text, WANTED) == ["power.draw.average", "uuid"]
    assert known_fields('"brand.new" or "power.draw"\r\n', WANTED) == ["power.draw"]


def test_every_row_of_the_table_names_a_column_that_exists_once() -> None:
    """A typing error in the table is found here."""
    columns = [(row.kind.name, row.column) for row in SMI_FIELDS]
    assert all(row.column in row.kind.index for row in SMI_FIELDS)
    assert len(set(columns)) == len(columns)
    assert all(row.unit in UNITS for row in SMI_FIELDS)


# Over time.


def test_energy_and_busy_time_are_integrated_and_never_go_back(h100s: Machine) -> None:
    """By the mean of two readings; over a gap nothing is known and nothing is added."""
    clock = Clock()
    smi = smi_of(h100s, clock=clock, longest_gap_seconds=10.0)

    async def main() -> list[tuple[float | None, float | None]]:
        values = []
        for watts, seconds in (("100.00", 2), ("200.00", 2), ("[N/A]", 2), ("200.00", 50), ("200.00", 0)):
            h100s.set(gpus=[{**h100(0), "power.draw": watts, "power.draw.average": watts, "utilization.gpu": "50"}])
            gpu = of(await smi.read(), GPU)[0]
            values.append((gpu["energy_integrated_joules_total"], gpu["busy_polled_seconds_total"]))
            clock.now += seconds
        return values

    assert run(main()) == [(0, 0), (300, 1), (None, 2), (1100, 3), (1100, 3)]


def test_xids_of_the_kernel_log_are_counted_for_the_gpu_at_their_address(h100s: Machine) -> None:
    """The address is told by nvidia-smi."""
    xids = XidLog()
    xids.seen("0000:19:00", 79, 1234.5, "kmsg")
    reading = read(h100s, xids=xids)
    assert xids.counts(h100(1)["uuid"]) == {79: 1}
    assert [gpu["xid_last_timestamp_seconds"] for gpu in of(reading, GPU)] == [None, 1234.5]
    assert not [name for name in reasons(reading) if "xid" in name]


def test_without_an_xid_log_xids_are_said_to_be_missing(h100s: Machine) -> None:
    """nvidia-smi tells of none."""
    told = reasons(read(h100s))
    assert told["gpumon_gpu_xid_errors_total"] == ("not given by nvidia-smi", 0)
    assert told["gpumon_gpu_xid_last_timestamp_seconds"] == ("not given by nvidia-smi", 0)


# Lost GPUs.


def up(reading: SmiReading) -> dict[str, float | None]:
    """Say which GPUs are up, by index."""
    return {entity.label("gpu_id"): entity["up"] for entity in of(reading, GPU_HEALTH)}


@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize(
    "message", [LOST, LOST.replace("GPU ADDRESS", "GPUADDRESS"), LOST.replace("GPU ADDRESS", "gpu0: ADDRESS")]
)
def test_a_lost_gpu_is_down_alone(tmp_path: Path, stops: bool, lost: int, message: str) -> None:
    """Some versions stop at it, some go on; the others are read all the same."""
    machine = Machine(tmp_path, [h100(0), h100(1), h100(2)], NEW_FIELDS, stops_at_lost=stops)
    smi = smi_of(machine)

    async def main() -> tuple[SmiReading, SmiReading, SmiReading]:
        before = await smi.read()
        machine.set(lost={h100(lost)["pci.bus_id"]: message})
        during = await smi.read()
        machine.set(lost={})
        return before, during, await smi.read()

    before, during, after = run(main())
    assert up(before) == up(after) == {"0": 1, "1": 1, "2": 1}
    assert up(during) == {"0": 1, "1": 1, "2": 1, str(lost): 0}
    assert {gpu.label("gpu_id") for gpu in of(during, GPU)} == {"0", "1", "2"} - {str(lost)}
    (down,) = of(during, GPU_DOWN)
    assert (down.label("gpu_id"), down.label("reason")) == (str(lost), LOST_REASON)
    assert during.errors == (f"GPU {h100(lost)['pci.bus_id']}: {LOST_REASON}",)
    assert not during.success
    assert [entity["lost_total"] for entity in of(after, GPU_HEALTH) if entity.label("gpu_id") == str(lost)] == [1]
    assert of(after, GPU_DOWN) == []


def test_with_a_gpu_lost_from_the_start_the_others_are_found_by_what_the_kernel_lists(tmp_path: Path) -> None:
    """nvidia-smi itself may stop before it has named any."""
    devices = tmp_path / "gpus"
    for index in range(3):
        (devices / h100(index)["pci.bus_id"].lower()[4:]).mkdir(parents=True)
    machine = Machine(tmp_path, [h100(0), h100(1), h100(2)], NEW_FIELDS, lost={h100(0)["pci.bus_id"]: LOST})
    reading = read(machine, devices_path=devices)
    assert up(reading) == {"1": 1, "2": 1}
    assert machine.last_call[-1] == "--id=0000:19:00.0,0000:1a:00.0"
    assert reading.gpu_count == 3
    assert not reading.success


def test_when_nothing_but_a_lost_gpu_is_known_it_is_named(tmp_path: Path) -> None:
    """One sentence."""
    machine = Machine(tmp_path, [h100(0)], NEW_FIELDS, lost={h100(0)["pci.bus_id"]: LOST})
    with pytest.raises(SmiError, match=r"^GPU 00000000:18:00.0: GPU is lost\. Reboot the system"):
        read(machine)


@pytest.mark.parametrize("cell", ["[GPU is lost]", "[GPU requires reset]", "[Unknown Error]"])
@pytest.mark.parametrize("told", [("index", "uuid", "pci.bus_id"), ("index", "pci.bus_id")])
def test_a_gpu_whose_every_cell_tells_of_trouble_is_down(h100s: Machine, cell: str, told: tuple[str, ...]) -> None:
    """It was lost after nvidia-smi had opened it."""
    smi = smi_of(h100s)
    cells = {name: (h100(1)[name] if name in told else cell) for group in NEW_FIELDS for name in group[:1]}
    cells = {"index": "1", **cells}

    async def main() -> SmiReading:
        await smi.read()
        h100s.set(cells={h100(1)["pci.bus_id"]: cells})
        return await smi.read()

    reading = run(main())
    assert up(reading) == {"0": 1, "1": 0}
    assert [entity.labels for entity in of(reading, GPU_DOWN)] == [
        ("1", "NVIDIA H100 80GB HBM3", h100(1)["uuid"], cell[1:-1])
    ]
    assert len(of(reading, GPU)) == 1


def test_a_row_that_does_not_tell_whose_it_is_is_not_guessed_at(h100s: Machine) -> None:
    """An index alone may be another GPU's by now."""
    smi = smi_of(h100s)

    async def main() -> SmiReading:
        await smi.read()
        cells = {**h100(1), "uuid": "[GPU is lost]", "pci.bus_id": "[GPU is lost]"}
        h100s.set(cells={h100(1)["pci.bus_id"]: cells})
        return await smi.read()

    reading = run(main())
    assert reading.errors == ("a GPU does not tell its UUID: GPU is lost",)
    assert [entity.label("reason") for entity in of(reading, GPU_DOWN)] == ["not listed by nvidia-smi"]


def test_a_gpu_that_is_not_listed_any_more_is_down(h100s: Machine) -> None:
    """And so are all when there is none left."""
    smi = smi_of(h100s)

    async def main() -> tuple[SmiReading, SmiReading]:
        await smi.read()
        h100s.set(gpus=[h100(1)])
        one = await smi.read()
        h100s.set(gpus=[])
        return one, await smi.read()

    one, none = run(main())
    assert up(one) == {"0": 0, "1": 1}
    assert up(none) == {"0": 0, "1": 0}
    assert none.gpu_count == 0


def test_a_machine_without_gpus_is_no_error(tmp_path: Path) -> None:
    """It has 0 of them."""
    assert read(Machine(tmp_path, [], NEW_FIELDS)) == SmiReading((), (), 0, True)


# When nothing can be read.


@pytest.mark.parametrize(
    ("does", "code", "sentence"),
    [
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n\n",
            9,
            (
                "nvidia-smi ended with exit code 9: "
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
            ),
        ),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 595.80\n",
            18,
            "nvidia-smi ended with exit code 18: Failed to initialize NVML: Driver/library version mismatch",
        ),
        ("", 1, "nvidia-smi ended with exit code 1, and it printed nothing"),
        ("", 0, "nvidia-smi gave no reading, and it printed nothing"),
        ("<html>\x07\x00 not me</html>\n", 0, "nvidia-smi gave no reading: <html> not me</html>"),
        ("0, 1, 2\n", 0, "nvidia-smi gave no reading: 0, 1, 2"),
        ("y" * 5000, 0, "nvidia-smi gave no reading: " + "y" * 200),
    ],
)
def test_a_run_without_readings_is_one_sentence_with_what_it_said(
    h100s: Machine, does: str, code: int, sentence: str
) -> None:
    """With its exit code, and cut to a length that a log line can bear."""
    h100s.set(does="print", text=does, code=code)
    with pytest.raises(SmiError) as error:
        read(h100s)
    assert str(error.value).replace(str(h100s.folder) + "/", "") == sentence


def test_a_version_that_does_not_list_its_fields_is_one_sentence(h100s: Machine) -> None:
    """The same when the command is another one altogether."""
    h100s.set(does="print", text="usage: something else\n", code=64, also_help=True)
    with pytest.raises(SmiError, match=r"does not list the fields it knows \(exit code 64\): usage: something else$"):
        read(h100s)


@pytest.mark.parametrize(
    ("make", "reason"), [("missing", "No such file"), ("no program", "Exec format error"), ("not allowed", "denied")]
)
def test_a_command_that_cannot_be_run_names_the_setting(tmp_path: Path, make: str, reason: str) -> None:
    """And the reason."""
    command = tmp_path / "nvidia-smi"
    if make != "missing":
        command.write_bytes(b"\x00\x01")
        command.chmod(0o755 if make == "no program" else 0o644)
    with pytest.raises(SmiError, match=rf'^gpu\.nvidia_smi_path: "{command}" cannot be run: .*{reason}'):
        run(NvidiaSmi(str(command), timeout_seconds=5).read())


def test_known_gpus_are_given_as_down_when_nothing_can_be_read(h100s: Machine) -> None:
    """They do not vanish from view."""
    smi = smi_of(h100s)

    async def main() -> SmiReading:
        await smi.read()
        h100s.set(does="print", text="Failed to initialize NVML: Unknown Error\n", code=255)
        return await smi.read()

    reading = run(main())
    assert up(reading) == {"0": 0, "1": 0}
    assert of(reading, GPU) == []
    assert "exit code 255: Failed to initialize NVML: Unknown Error" in of(reading, GPU_DOWN)[0].label("reason")
    assert len(reading.errors) == 1


def test_a_warning_beside_the_readings_is_passed_on(h100s: Machine) -> None:
    """nvidia-smi ends with code 14 when the board's own storage is damaged."""
    h100s.set(text="WARNING: infoROM is corrupted at gpu 00000000:18:00.0\n", code=14)
    reading = read(h100s)
    assert up(reading) == {"0": 1, "1": 1}
    (error,) = reading.errors
    assert error.endswith("ended with exit code 14: WARNING: infoROM is corrupted at gpu 00000000:18:00.0")


# Hanging.


def test_a_hanging_run_is_killed_and_the_next_one_reads(h100s: Machine) -> None:
    """All GPUs are said to hang meanwhile."""
    smi = smi_of(h100s)

    async def main() -> tuple[SmiReading, SmiReading]:
        await smi.read()
        h100s.set(does="hang")
        smi._timeout = 0.5
        hanging = await smi.read()
        await smi.close()
        h100s.set(does="read")
        smi._timeout = 20
        return hanging, await smi.read()

    hanging, after = run(main())
    assert [(entity["up"], entity["hung"]) for entity in of(hanging, GPU_HEALTH)] == [(0, 1), (0, 1)]
    assert {entity.label("reason") for entity in of(hanging, GPU_DOWN)} == {"nvidia-smi does not answer"}
    assert hanging.errors[0].endswith("did not answer within 0.5 s")
    assert up(after) == {"0": 1, "1": 1}


def test_a_hanging_first_run_is_one_sentence(h100s: Machine) -> None:
    """No GPU is known yet."""
    h100s.set(does="hang")

    async def main() -> None:
        smi = smi_of(h100s, timeout_seconds=0.2)
        with pytest.raises(SmiError, match=r"did not answer within 0\.2 s$"):
            await smi.read()
        await smi.close()

    run(main())


def test_a_reading_that_is_cancelled_leaves_no_child(h100s: Machine) -> None:
    """The sampler has deadlines of its own, and gpumon may be told to stop."""

    async def main() -> None:
        smi = smi_of(h100s)
        h100s.set(does="hang")
        reading = asyncio.create_task(smi.read())
        await turn_until(lambda: bool(h100s.calls))
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await smi.close()
        assert smi._child is not None
        assert smi._child.code == -signal.SIGKILL

    run(main())


def test_a_process_left_behind_with_the_pipes_open_is_ended_as_well(h100s: Machine) -> None:
    """Where nvidia-smi is a script, what it started goes with it."""
    h100s.set(does="leave a process behind")

    async def main() -> None:
        smi = smi_of(h100s)
        reading = asyncio.create_task(smi.read())
        await turn_until(lambda: smi._child is not None and smi._child.ended)
        assert not reading.done()
        reading.cancel()
        await smi.close()

    run(main())
    pid = int((h100s.folder / "left").read_text())
    until(lambda: state_of(pid) in ("Z", "X", "gone"))


def state_of(pid: int) -> str:
    """Give the state letter of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


async def turn_until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0)


def until(true: Callable[[], bool]) -> None:
    """Give the kernel its turns until something is so; fails the test after five seconds."""
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        os.sched_yield()


def test_output_without_end_is_cut_off(h100s: Machine) -> None:
    """Memory stays bounded."""
    h100s.set(does="print without end")
    with pytest.raises(SmiError, match=r"wrote more than 1048576 bytes$"):
        read(h100s)


def test_a_reading_asked_for_while_one_is_under_way_starts_no_second_child(h100s: Machine) -> None:
    """Never more than one."""

    async def main() -> None:
        smi = smi_of(h100s)
        first, second = await asyncio.gather(smi.read(), smi.read())
        assert first is second
        assert first.success

    run(main())
    assert h100s.calls == ["--help-query-gpu", "--query-gpu"]


def test_a_run_that_takes_longer_than_a_tick_goes_on_and_its_reading_is_given_when_it_is_there(h100s: Machine) -> None:
    """On a node where it always does, readings come at the pace of nvidia-smi; meanwhile the last one stands."""
    clock = Clock()

    async def main() -> None:
        smi = smi_of(h100s, clock=clock)
        h100s.set(does="wait")
        assert await smi.read(0.01) == SmiReading((), (), 0, False), "nothing is known yet"
        clock.now += 3
        (h100s.folder / "go").touch()
        first = await smi.read(20)
        assert {gpu["read_duration_seconds"] for gpu in of(first, GPU_HEALTH)} == {3}
        (h100s.folder / "go").unlink()
        for _ in range(4):
            assert await smi.read(0.01) is first
            clock.now += 2
        hanging = await smi.read(0.01)
        assert [(gpu["up"], gpu["hung"]) for gpu in of(hanging, GPU_HEALTH)] == [(0, 1), (0, 1)]
        assert of(hanging, GPU) == []
        assert hanging.errors[0].endswith("takes more than twice as long as before")
        (h100s.folder / "go").touch()
        assert up(await smi.read(20)) == {"0": 1, "1": 1}
        assert h100s.calls.count("--query-gpu") == 2
        await smi.close()

    run(main())


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def freezer() -> Iterator[Path]:
    """Make a cgroup whose processes can be frozen: not even SIGKILL ends them then, as when a driver call hangs."""
    folder = FREEZER / f"gpumon-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"not tried with a process that cannot be killed: {error}")
    yield folder
    (folder / "freezer.state").write_text("THAWED")
    until(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_a_child_that_cannot_be_killed_is_left_behind_and_no_other_is_started(h100s: Machine, freezer: Path) -> None:
    """nvidia-smi hangs in the kernel when a GPU is sick; when it ends at last, readings go on."""
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        smi = smi_of(h100s)
        await smi.read()
        h100s.set(does="freeze", text=str(freezer))
        first = asyncio.create_task(smi.read())
        await turn_until(lambda: (freezer / "freezer.state").read_text() == "FROZEN\n")
        first.cancel()
        started = len(h100s.calls)
        await smi.close()
        assert smi._child is not None
        if smi._child.ended:
            pytest.skip("not tried with a process that cannot be killed: this kernel ends frozen ones")
        h100s.set(does="read", text="")
        for _ in range(10):
            again = await smi.read()
            assert again.errors[0].endswith("still hangs, and is not started again until it ends")
            assert {entity["hung"] for entity in of(again, GPU_HEALTH)} == {1}
        assert len(h100s.calls) == started
        (freezer / "freezer.state").write_text("THAWED")
        await turn_until(lambda: smi._child is not None and smi._child.ended)
        assert up(await smi.read()) == {"0": 1, "1": 1}

    run(main())
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before


# Whatever it prints.

FIELDS = [*IDENTITY, *sorted(WANTED - {*IDENTITY, NAME}), NAME]
ODD_CELLS = st.one_of(
    st.sampled_from(
        ["", "[N/A]", "N/A", "[GPU is lost]", "ERR!", "12", "-3", "1e9", "nan", "inf", "0x10", "1,5", "9" * 30]
    ),
    st.sampled_from(["12 MiB", "12 GiB", "12.50 W", "Active", "Not Active", "Yes", "P2", "P99", "None", "٣", "1_000"]),
    st.integers(-(10**6), 10**6).map(str),
    st.text(st.characters(blacklist_characters="\n"), max_size=8),
)
ROWS = st.tuples(
    st.sampled_from(["0", "1", "[GPU is lost]", "x"]),
    st.sampled_from([h100(0)["uuid"], h100(1)["uuid"], "[GPU is lost]", "GPU-", "?"]),
    st.sampled_from(["00000000:18:00.0", "[N/A]", "nowhere"]),
    st.lists(ODD_CELLS, min_size=len(FIELDS) - 3, max_size=len(FIELDS) - 3),
).map(lambda row: ", ".join((*row[:3], *row[3])))
LINES = st.one_of(
    ROWS, st.text(), st.sampled_from([LOST.replace("ADDRESS", "0000:18:00.0"), "No devices were found", ", " * 200])
)


@given(st.lists(LINES, max_size=5).map("\n".join), st.booleans())
def test_any_text_gives_readings_in_which_every_number_stood_in_the_text(text: str, ended: bool) -> None:
    """No traceback, no number that was not there, none outside its limits."""
    answer = parse(text + "\n" if ended else text, FIELDS)
    reading = NvidiaSmi("nvidia-smi", timeout_seconds=1)._take(answer, 0.0)
    columns = {(row.kind, row.column): row for row in SMI_FIELDS}
    for entity in reading.entities:
        if entity.kind not in (GPU, FAN):
            continue
        for column, value in zip(entity.kind.columns, entity.values, strict=True):
            row = columns.get((entity.kind, column.name))
            if value is None or row is None:
                continue
            low, high = column.reading.limits or (float("-inf"), float("inf"))
            assert low <= value <= high
            assert any(stands(row, value, cell) for line in text.split("\n") for cell in line.split(", "))


def stands(row: SmiField, value: float, cell: str) -> bool:
    """Say whether a cell plainly holds a value."""
    if row.words is not None:
        return row.words.get(cell.strip()) == value
    number = re.fullmatch(r"(-?\d+(?:\.\d+)?)(?: \S+)?", cell.strip(), re.ASCII)
    return number is not None and float(number[1]) * UNITS[row.unit] == value


@given(st.sampled_from(SMI_FIELDS), st.one_of(ODD_CELLS, st.text()))
def test_any_cell_is_a_value_or_a_reason(row: SmiField, cell: str) -> None:
    """A reason is a short word that does not change from tick to tick."""
    value = parse_cell(row, cell)
    if isinstance(value, str):
        assert value in (absence(cell), "answer not understood", "out of range")


@given(st.text())
def test_any_help_text_gives_only_fields_that_are_wanted(text: str) -> None:
    """Each at most once."""
    for help_text in (text, "\n".join(f'"{word}"' for word in text.split())):
        fields = known_fields(help_text, WANTED)
        assert set(fields) <= WANTED
        assert len(set(fields)) == len(fields)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(LINES, max_size=3).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
    ),
    st.integers(0, 255),
    st.booleans(),
)
def test_whatever_a_run_prints_the_reading_is_entities_or_one_sentence(
    h100s: Machine, output: bytes, code: int, also_help: bool
) -> None:
    """Through a real child: any bytes, any exit code."""
    h100s.set(does="print", text=output.decode("utf-8", "surrogateescape"), code=code, also_help=also_help)
    sentences: tuple[str, ...]
    try:
        sentences = read(h100s).errors
    except SmiError as error:
        sentences = (str(error),)
    assert all("\n" not in sentence and len(sentence) < 500 for sentence in sentences)


def test_a_row_that_was_cut_off_is_no_row() -> None:
    """Its last number could be half of one."""
    row = ", ".join(["0", h100(0)["uuid"], "00000000:18:00.0", *["12"] * (len(FIELDS) - 3)])
    assert len(parse(row + "\n", FIELDS).rows) == 1
    assert parse(row, FIELDS).rows == []


def test_what_stands_on_standard_error_is_never_taken_for_part_of_a_row(h100s: Machine) -> None:
    """A row cut off in the middle of a number, and a warning that begins with digits."""

    async def main() -> None:
        smi = smi_of(h100s)
        await smi.read()
        row = ", ".join(h100(0).get(name, "[N/A]") for name in smi._fields)
        h100s.set(does="print", text=row[: row.index("70210") + 2], error_text=row[row.index("70210") + 2 :] + "\n")
        assert of(await smi.read(), GPU) == []

    run(main())
