"""A stand-in for nvidia-smi: a real command that plays a machine described in a JSON file beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

SCRIPT = r"""
import json, os, sys, time

folder = os.path.dirname(__file__)


def write(path, text, mode="w"):
    with open(path, mode) as file:
        file.write(text)


with open(folder + "/machine.json") as file:
    machine = json.load(file)
write(folder + "/calls", " ".join(sys.argv[1:]) + "\n", "a")
option, _, asked = sys.argv[1].partition("=")

if machine["does"] == "hang":
    time.sleep(600)
if machine["does"] == "wait":
    while not os.path.exists(folder + "/go"):
        time.sleep(0.01)
if machine["does"] == "freeze":
    write(machine["text"] + "/cgroup.procs", str(os.getpid()))
    write(machine["text"] + "/freezer.state", "FROZEN")
    time.sleep(600)
if machine["does"] == "leave a process behind":
    pid = os.fork()
    if not pid:
        time.sleep(600)
    write(folder + "/left", str(pid))
    os._exit(0)
if machine["does"] == "print without end":
    while True:
        sys.stdout.write("x" * 65536)
if machine["does"] == "print" and (option == "--query-gpu" or machine["also_help"]):
    sys.stdout.buffer.write(machine["text"].encode("utf-8", "surrogateescape"))
    sys.stderr.write(machine["error_text"])
    sys.exit(machine["code"])

tables = {"--query-gpu": machine["fields"], "--query-remapped-rows": machine["row_fields"]}
if option.startswith("--help-query-"):
    table = tables.get("--query-" + option[len("--help-query-"):], [])
    if not table:
        print("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.")
        sys.exit(1)
    print('List of valid properties to query for the switch "' + option + '":\n')
    for names in table:
        print(" or ".join('"' + name + '"' for name in names))
        print('Something about it.\n"0: Default" means nothing here.\n')
    sys.exit(0)

assert sys.argv[2] == "--format=csv,noheader,nounits", sys.argv
names = asked.split(",")
known = {name: group[0] for group in tables[option] for name in group}
for name in names:
    if name not in known:
        print('Field "' + name + '" is not a valid field to query.')
        sys.exit(2)
ids = sys.argv[3].partition("=")[2].split(",") if len(sys.argv) > 3 else None
shown = 0
for gpu in machine["gpus"]:
    if ids is not None and gpu["uuid"] not in ids and gpu["pci.bus_id"].lower()[4:] not in ids:
        continue
    address = gpu["pci.bus_id"]
    if address in machine["lost"]:
        print(machine["lost"][address].replace("ADDRESS", address))
        if machine["stops_at_lost"]:
            sys.exit(15)
        continue
    cells = machine["cells"].get(address, gpu)
    print(", ".join(cells.get(known[name], "[N/A]") for name in names))
    shown += 1
if not shown and not machine["lost"]:
    print("No devices were found")
    sys.exit(6)
sys.stdout.write(machine["text"])
sys.exit(15 if machine["lost"] else machine["code"])
"""


@dataclass
class Machine:
    """What the command plays; `set` changes it, `calls` tells how it was called."""

    folder: Path
    gpus: Sequence[Mapping[str, str]]
    fields: Sequence[Sequence[str]]
    row_fields: Sequence[Sequence[str]] = ()
    cells: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # in place of a GPU's own, by PCI address
    lost: Mapping[str, str] = field(default_factory=dict)  # messages by PCI address
    stops_at_lost: bool = True
    does: str = "read"
    text: str = ""
    error_text: str = ""
    also_help: bool = False
    code: int = 0

    def __post_init__(self) -> None:
        self.command = self.folder / "nvidia-smi"
        (self.folder / "play.py").write_text(SCRIPT)
        self.command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{self.folder}/play.py" "$@"\n')
        self.command.chmod(0o755)
        self.set()

    def set(self, **changes: object) -> None:
        """Change what the command plays from its next run on."""
        for name, value in changes.items():
            setattr(self, name, value)
        (self.folder / "machine.json").write_text(json.dumps({**asdict(self), "folder": ""}))

    @property
    def calls(self) -> list[str]:
        """Give the option of every run so far, without what is asked for."""
        path = self.folder / "calls"
        return [line.split()[0].partition("=")[0] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def last_call(self) -> list[str]:
        """Give the arguments of the last run."""
        return (self.folder / "calls").read_text().splitlines()[-1].split()


def _groups(text: str) -> list[list[str]]:
    return [line.split("|") for line in text.split()]


# Fields of a driver of 2026, in the order of its help; "|" stands between the names of one field.
NEW_FIELDS = _groups("""
timestamp driver_version count name|gpu_name serial|gpu_serial uuid|gpu_uuid pci.bus_id|gpu_bus_id
pcie.link.gen.current pcie.link.gen.gpucurrent pcie.link.gen.max pcie.link.gen.gpumax pcie.link.gen.hostmax
pcie.link.width.current pcie.link.width.max index display_mode persistence_mode vbios_version gpu_recovery_action
fan.speed pstate
clocks_event_reasons.supported|clocks_throttle_reasons.supported
clocks_event_reasons.active|clocks_throttle_reasons.active
clocks_event_reasons.gpu_idle|clocks_throttle_reasons.gpu_idle
clocks_event_reasons.applications_clocks_setting|clocks_throttle_reasons.applications_clocks_setting
clocks_event_reasons.sw_power_cap|clocks_throttle_reasons.sw_power_cap
clocks_event_reasons.hw_slowdown|clocks_throttle_reasons.hw_slowdown
clocks_event_reasons.hw_thermal_slowdown|clocks_throttle_reasons.hw_thermal_slowdown
clocks_event_reasons.hw_power_brake_slowdown|clocks_throttle_reasons.hw_power_brake_slowdown
clocks_event_reasons.sw_thermal_slowdown|clocks_throttle_reasons.sw_thermal_slowdown
clocks_event_reasons.sync_boost|clocks_throttle_reasons.sync_boost
clocks_event_reasons_counters.sw_power_cap clocks_event_reasons_counters.sync_boost
clocks_event_reasons_counters.sw_thermal_slowdown clocks_event_reasons_counters.hw_thermal_slowdown
clocks_event_reasons_counters.hw_power_brake_slowdown
memory.total memory.reserved memory.used memory.free compute_mode compute_cap
utilization.gpu utilization.memory utilization.encoder utilization.decoder utilization.jpeg utilization.ofa
ecc.mode.current ecc.errors.corrected.volatile.total ecc.errors.corrected.aggregate.total
ecc.errors.uncorrected.volatile.total ecc.errors.uncorrected.aggregate.total
retired_pages.single_bit_ecc.count|retired_pages.sbe retired_pages.double_bit.count|retired_pages.dbe
retired_pages.pending remapped_rows.correctable|remapped_rows.sbe remapped_rows.uncorrectable|remapped_rows.dbe
remapped_rows.pending remapped_rows.failure remapped_rows.histogram.max remapped_rows.histogram.high
remapped_rows.histogram.partial remapped_rows.histogram.low remapped_rows.histogram.none
temperature.gpu temperature.gpu.tlimit temperature.memory
power.draw power.draw.average|gpu.power.draw.average power.draw.instant|gpu.power.draw.instant
power.limit|gpu.power.requested_limit enforced.power.limit|gpu.power.current_limit
power.default_limit|gpu.power.default_limit power.min_limit|gpu.power.min_limit power.max_limit|gpu.power.max_limit
clocks.current.graphics|clocks.gr clocks.current.sm|clocks.sm clocks.current.memory|clocks.mem
clocks.current.video|clocks.video clocks.max.graphics|clocks.max.gr clocks.max.sm|clocks.max.sm
clocks.max.memory|clocks.max.mem mig.mode.current mig.mode.pending
protected_memory.used fabric.state fabric.health.bandwidth fabric.health.route_recovery_in_progress
fabric.health.route_unhealthy fabric.health.access_timeout_recovery
""")

# Fields of a driver of 2021: throttle reasons by their old name, remapped rows in a query of their own, no power means.
OLD_FIELDS = _groups("""
timestamp driver_version count name|gpu_name serial|gpu_serial uuid|gpu_uuid pci.bus_id|gpu_bus_id
pcie.link.gen.current pcie.link.gen.max pcie.link.width.current pcie.link.width.max index persistence_mode
vbios_version fan.speed pstate
clocks_throttle_reasons.supported clocks_throttle_reasons.active clocks_throttle_reasons.gpu_idle
clocks_throttle_reasons.applications_clocks_setting clocks_throttle_reasons.sw_power_cap
clocks_throttle_reasons.hw_slowdown clocks_throttle_reasons.hw_thermal_slowdown
clocks_throttle_reasons.hw_power_brake_slowdown clocks_throttle_reasons.sw_thermal_slowdown
clocks_throttle_reasons.sync_boost
memory.total memory.used memory.free utilization.gpu utilization.memory ecc.mode.current
ecc.errors.corrected.volatile.total ecc.errors.corrected.aggregate.total ecc.errors.uncorrected.volatile.total
ecc.errors.uncorrected.aggregate.total retired_pages.single_bit_ecc.count|retired_pages.sbe
retired_pages.double_bit.count|retired_pages.dbe retired_pages.pending
temperature.gpu temperature.memory power.draw power.limit enforced.power.limit power.default_limit power.min_limit
power.max_limit clocks.current.graphics|clocks.gr clocks.current.sm|clocks.sm clocks.current.memory|clocks.mem
clocks.current.video|clocks.video clocks.max.graphics|clocks.max.gr clocks.max.sm|clocks.max.sm
clocks.max.memory|clocks.max.mem
""")
OLD_ROW_FIELDS = _groups("""
timestamp gpu_name gpu_bus_id gpu_serial gpu_uuid remapped_rows.correctable|remapped_rows.sbe
remapped_rows.uncorrectable|remapped_rows.dbe remapped_rows.pending remapped_rows.failure
remapped_rows.histogram.max remapped_rows.histogram.high remapped_rows.histogram.partial
remapped_rows.histogram.low remapped_rows.histogram.none
""")


def h100(index: int, address: str = "") -> dict[str, str]:
    """Give the cells of one H100 at work."""
    return {
        "timestamp": "2026/11/02 08:15:42.117",
        "driver_version": "595.80",
        "count": "2",
        "name": "NVIDIA H100 80GB HBM3",
        "serial": f"165302400{index:04}",
        "uuid": f"GPU-7d3c1a50-90e2-4f6b-8c1e-{index:012}",
        "pci.bus_id": address or f"00000000:{0x18 + index:02X}:00.0",
        "pcie.link.gen.current": "5",
        "pcie.link.gen.gpucurrent": "5",
        "pcie.link.gen.max": "5",
        "pcie.link.width.current": "16",
        "pcie.link.width.max": "16",
        "index": str(index),
        "display_mode": "[Requested functionality has been deprecated]",
        "persistence_mode": "Enabled",
        "vbios_version": "96.00.99.00.01",
        "gpu_recovery_action": "None",
        "pstate": "P0",
        "clocks_event_reasons.gpu_idle": "Not Active",
        "clocks_event_reasons.applications_clocks_setting": "Not Active",
        "clocks_event_reasons.sw_power_cap": "Active",
        "clocks_event_reasons.hw_slowdown": "Not Active",
        "clocks_event_reasons.hw_thermal_slowdown": "Not Active",
        "clocks_event_reasons.hw_power_brake_slowdown": "Not Active",
        "clocks_event_reasons.sw_thermal_slowdown": "Not Active",
        "clocks_event_reasons.sync_boost": "Not Active",
        "clocks_event_reasons_counters.sw_power_cap": "200740215",
        "clocks_event_reasons_counters.sync_boost": "0",
        "clocks_event_reasons_counters.sw_thermal_slowdown": "0",
        "clocks_event_reasons_counters.hw_thermal_slowdown": "1500",
        "clocks_event_reasons_counters.hw_power_brake_slowdown": "0",
        "memory.total": "81559",
        "memory.reserved": "479",
        "memory.used": "70210",
        "memory.free": "10870",
        "compute_cap": "9.0",
        "utilization.gpu": "97",
        "utilization.memory": "41",
        "utilization.encoder": "0",
        "utilization.decoder": "0",
        "utilization.jpeg": "0",
        "utilization.ofa": "0",
        "ecc.mode.current": "Enabled",
        "ecc.errors.corrected.volatile.total": "3",
        "ecc.errors.corrected.aggregate.total": "17",
        "ecc.errors.uncorrected.volatile.total": "0",
        "ecc.errors.uncorrected.aggregate.total": "1",
        "remapped_rows.correctable": "2",
        "remapped_rows.uncorrectable": "1",
        "remapped_rows.pending": "Yes",
        "remapped_rows.failure": "No",
        "remapped_rows.histogram.max": "2558",
        "remapped_rows.histogram.high": "2",
        "remapped_rows.histogram.partial": "0",
        "remapped_rows.histogram.low": "0",
        "remapped_rows.histogram.none": "0",
        "temperature.gpu": "64",
        "temperature.gpu.tlimit": "23",
        "temperature.memory": "71",
        "power.draw": "684.20",
        "power.draw.average": "684.20",
        "power.draw.instant": "691.75",
        "power.limit": "700.00",
        "enforced.power.limit": "650.00",
        "power.default_limit": "700.00",
        "power.min_limit": "200.00",
        "power.max_limit": "700.00",
        "clocks.current.graphics": "1755",
        "clocks.current.sm": "1755",
        "clocks.current.memory": "2619",
        "clocks.current.video": "1350",
        "clocks.max.graphics": "1980",
        "clocks.max.sm": "1980",
        "clocks.max.memory": "2619",
        "mig.mode.current": "Disabled",
        "protected_memory.used": "0",
        "fabric.state": "Completed",
        "fabric.health.bandwidth": "N/A",
        "fabric.health.route_recovery_in_progress": "N/A",
        "fabric.health.route_unhealthy": "N/A",
        "fabric.health.access_timeout_recovery": "N/A",
    }


def rtx4090() -> dict[str, str]:
    """Give the cells of an idle desktop card, which has no ECC, no serial number, no memory sensor."""
    return {
        **{name: cell for name, cell in h100(0, "00000000:01:00.0").items() if not name.startswith(("ecc", "remap"))},
        "name": "NVIDIA GeForce RTX 4090",
        "serial": "[N/A]",
        "uuid": "GPU-1f9e4b7c-23d8-4c05-b6aa-000000004090",
        "compute_cap": "8.9",
        "persistence_mode": "Disabled",
        "fan.speed": "30",
        "pstate": "P8",
        "utilization.gpu": "0",
        "utilization.ofa": "[Not Supported]",
        "temperature.gpu.tlimit": "[N/A]",
        "temperature.memory": "N/A",
        "power.draw": "21.05",
        "power.draw.average": "[N/A]",
        "power.draw.instant": "[Unknown Error]",
        "power.min_limit": "[Insufficient Permissions]",
        "mig.mode.current": "[N/A]",
        "fabric.state": "[N/A]",
        "pcie.link.gen.gpucurrent": "",
        "pcie.link.gen.current": "1",
    }


def a100_old() -> dict[str, str]:
    """Give the cells of an A100 on a driver of branch 470."""
    old = {name.replace("clocks_event_reasons.", "clocks_throttle_reasons."): cell for name, cell in h100(0).items()}
    return {
        **old,
        "name": "NVIDIA A100-SXM4-40GB",
        "uuid": "GPU-a1000000-0000-4000-8000-000000000470",
        "gpu_uuid": "GPU-a1000000-0000-4000-8000-000000000470",
        "driver_version": "470.57.02",
    }
