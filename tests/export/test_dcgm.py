"""The names of dcgm-exporter: exactly its own, over the same readings, and only when asked for."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from structlog.testing import capture_logs
from tests.node import Node
from tests.web.serving import ask, settings

from gpumon.catalog import GPU, GPU_POD, GPU_XID, KINDS, MIG, NVLINK, Entity, EntityKind, Snapshot
from gpumon.catalog.dcgm import FAMILIES, FORMS, NOT_GIVEN, XID, table
from gpumon.export.dcgm import Dcgm
from gpumon.export.exposition import Exposition
from gpumon.export.prometheus import Form, Renderer
from gpumon.hub import Hub
from gpumon.web.metrics import MetricsServer

GOLDEN = Path(__file__).parents[1] / "golden" / "dcgm"
# One that has everything, one that has little, one that is partitioned.
PROFILES = ("h100x1", "rtx4090x1", "h100x1-mig")
HOST = "node-7"

# etc/default-counters.csv of dcgm-exporter 4.5.3-4.8.2: type, and name in each row; first those that are on.
DEFAULT_COUNTERS = """
gauge DCGM_FI_DEV_SM_CLOCK DCGM_FI_DEV_MEM_CLOCK DCGM_FI_DEV_MEMORY_TEMP DCGM_FI_DEV_GPU_TEMP DCGM_FI_DEV_POWER_USAGE
counter DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION DCGM_FI_DEV_PCIE_REPLAY_COUNTER
gauge DCGM_FI_DEV_GPU_UTIL DCGM_FI_DEV_MEM_COPY_UTIL DCGM_FI_DEV_ENC_UTIL DCGM_FI_DEV_DEC_UTIL DCGM_FI_DEV_XID_ERRORS
gauge DCGM_FI_DEV_FB_FREE DCGM_FI_DEV_FB_USED DCGM_FI_DEV_FB_RESERVED
counter DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL
gauge DCGM_FI_DEV_VGPU_LICENSE_STATUS
counter DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS
gauge DCGM_FI_DEV_ROW_REMAP_FAILURE
label DCGM_FI_DRIVER_VERSION
gauge DCGM_FI_PROF_GR_ENGINE_ACTIVE DCGM_FI_PROF_PIPE_TENSOR_ACTIVE DCGM_FI_PROF_DRAM_ACTIVE
gauge DCGM_FI_PROF_PCIE_TX_BYTES DCGM_FI_PROF_PCIE_RX_BYTES
"""
OPTIONAL_COUNTERS = """
counter DCGM_FI_DEV_POWER_VIOLATION DCGM_FI_DEV_THERMAL_VIOLATION DCGM_FI_DEV_SYNC_BOOST_VIOLATION
counter DCGM_FI_DEV_BOARD_LIMIT_VIOLATION DCGM_FI_DEV_LOW_UTIL_VIOLATION DCGM_FI_DEV_RELIABILITY_VIOLATION
counter DCGM_EXP_CLOCK_EVENTS_COUNT DCGM_EXP_XID_ERRORS_COUNT DCGM_EXP_GPU_HEALTH_STATUS DCGM_EXP_P2P_STATUS
counter DCGM_FI_DEV_ECC_SBE_VOL_TOTAL DCGM_FI_DEV_ECC_DBE_VOL_TOTAL
counter DCGM_FI_DEV_ECC_SBE_AGG_TOTAL DCGM_FI_DEV_ECC_DBE_AGG_TOTAL
counter DCGM_FI_DEV_RETIRED_SBE DCGM_FI_DEV_RETIRED_DBE DCGM_FI_DEV_RETIRED_PENDING
counter DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL
counter DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL
counter DCGM_FI_DEV_NVLINK_BANDWIDTH_L0
label DCGM_FI_NVML_VERSION DCGM_FI_DEV_BRAND DCGM_FI_DEV_SERIAL DCGM_FI_DEV_OEM_INFOROM_VER
label DCGM_FI_DEV_ECC_INFOROM_VER DCGM_FI_DEV_POWER_INFOROM_VER DCGM_FI_DEV_INFOROM_IMAGE_VER DCGM_FI_DEV_VBIOS_VERSION
gauge DCGM_FI_PROF_SM_ACTIVE DCGM_FI_PROF_SM_OCCUPANCY
gauge DCGM_FI_PROF_PIPE_FP64_ACTIVE DCGM_FI_PROF_PIPE_FP32_ACTIVE DCGM_FI_PROF_PIPE_FP16_ACTIVE
"""
# What every series has, in dcgm-exporter's templates and in its list of counters.
LABELS = {
    "legacy": {"gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION"},
    "4.9": {"gpu", "UUID", "pci_bus_id", "device", "modelName", "hostname", "DCGM_FI_SYSTEM_DRIVER_VERSION"},
}
# What promtool's linter has against names that are not gpumon's.
DISLIKED = re.compile(
    r"DCGM_\w+ (label names should be written in 'snake_case' not 'camelCase'"
    r"|counter metrics should have \"_total\" suffix|metric name should not include type 'counter')"
)


def listed(text: str) -> dict[str, str]:
    """Give type by name."""
    return {name: kind for kind, *names in (line.split() for line in text.strip().splitlines()) for name in names}


def snapshots(profile: str, times: int = 2) -> Iterator[Snapshot]:
    """Give snapshots of a simulated node, 20 s apart, so that there are rates."""
    with Node(profile) as node, capture_logs():
        for _ in range(times):
            yield node.tick(10)


def added(snapshot: Snapshot, *entities: Entity) -> Snapshot:
    """Give the snapshot with more in it."""
    return replace(snapshot, entities=(*snapshot.entities, *entities))


def page(form: str, some: Iterable[Snapshot], text: Form = Form.TEXT) -> str:
    """Render the last of some snapshots as one scraper sees it that saw all."""
    dcgm = Dcgm(form, HOST)
    for snapshot in some:
        entities = dcgm.entities(snapshot)
    return b"".join(Renderer(dcgm.kinds).render(entities, text)).decode()


def samples(text: str) -> dict[str, list[Sample]]:
    """Give the samples of each family of a page."""
    return {family.name: family.samples for family in parse_text(text)}


def gpu(kind: EntityKind, further: tuple[str, ...] = (), index: int = 0, **values: float | None) -> Entity:
    """Give an entity of a GPU that does not come from a simulation."""
    labels = (str(index), "H100", f"GPU-{index}", *further)
    return Entity(kind, labels, tuple(values.get(column.name) for column in kind.columns))


def pod(name: str, device: str, index: int = 0) -> Entity:
    """Give a container that has a device."""
    where = ("team", name, "main", "nvidia.com/gpu", device)
    return Entity(GPU_POD, (str(index), "H100", f"GPU-{index}", *where), (1.0,))


def of(seconds: float, *entities: Entity) -> Snapshot:
    return Snapshot(1e9 + seconds, seconds, int(seconds), entities)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_page_of_each_profile_is_as_reviewed(profile: str, form: str) -> None:
    """Nothing about a page changes unseen; GOLDEN=write writes the files anew."""
    file = GOLDEN / f"{profile}.{form}.prom"
    content = page(form, snapshots(profile))
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(content)
    assert content.splitlines() == file.read_text().splitlines()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("profile", PROFILES)
def test_prometheus_takes_the_page(profile: str, form: str) -> None:
    """Both text formats can be read, and promtool dislikes only names that are dcgm-exporter's."""
    some = tuple(snapshots(profile))
    text = page(form, some)
    named = {family.name for family in parse_text(text)}
    openmetrics = {
        family.name: family.type for family in parse_openmetrics(page(form, some, Form.OPENMETRICS) + "# EOF")
    }
    assert set(openmetrics) == named
    assert set(openmetrics.values()) <= {"gauge", "unknown"}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT CHECKED: promtool is not installed (Debian package prometheus)")
    checked = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    complaints = [line for line in checked.stderr.decode().splitlines() if not DISLIKED.fullmatch(line)]
    assert complaints == []


def test_every_counter_of_dcgm_exporters_list_is_given_or_said_not_to_be() -> None:
    """Those that are on by default as well as those that are commented out; and nothing is both."""
    given = {family.legacy.name: family for family in (*FAMILIES, XID) if family.legacy is not None}
    refused = [name for row in NOT_GIVEN for name in row.names]
    default, optional = listed(DEFAULT_COUNTERS), listed(OPTIONAL_COUNTERS)
    assert (len(default), len(optional)) == (26, 35)
    labels = {name for name in default | optional if (default | optional)[name] == "label"} - set(refused)
    assert labels == {"DCGM_FI_DRIVER_VERSION"}, "on every series"
    assert set(given) | set(refused) | labels >= set(default | optional)
    assert not set(given) & set(refused)
    assert set(given) <= set(default | optional)
    assert {name: family.default for name, family in given.items()} == {name: name in default for name in given}


def test_a_type_is_dcgm_exporters_or_the_row_says_what_it_declares() -> None:
    """What is no counter is not called one."""
    declared = listed(DEFAULT_COUNTERS) | listed(OPTIONAL_COUNTERS)
    for family in (*FAMILIES, XID):
        if family.legacy is not None:
            own = "counter" if family.counts else "gauge"
            assert declared[family.legacy.name] == (family.declared or own), family.legacy.name
            assert family.declared != own


def test_4_9_renames_what_its_release_notes_say() -> None:
    """22 of the default families (and one label), eleven of them with another unit; one family is new."""
    default = [family for family in (*FAMILIES, XID) if family.default]
    both = [(family.legacy, family.renamed) for family in default if family.legacy and family.renamed]
    assert sum(legacy.name != renamed.name for legacy, renamed in both) == 22
    assert sum(legacy.scale != renamed.scale for legacy, renamed in both) == 11
    assert [family.renamed.name for family in default if family.legacy is None and family.renamed] == [
        "DCGM_FI_DEV_FB_CAPACITY_BYTES"
    ]


def test_every_family_is_of_readings_that_exist() -> None:
    """Columns that the catalogue has, no name twice, and a name in one form at least."""
    for family in (*FAMILIES, XID):
        assert set(family.columns) <= set(family.kind.index)
        assert family.mig is None or family.mig in MIG.index
        assert family.legacy or family.renamed
    for form in FORMS:
        names = [named.name for family in (*FAMILIES, XID) if (named := family.named(form))]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("form", FORMS)
def test_series_have_dcgm_exporters_own_set_of_labels(form: str) -> None:
    """The device's on all; a MIG device's, a pod's and an XID's only where there is one."""
    with Node("h100x1-mig") as node, capture_logs():
        snapshot = node.tick(2)
    uuid, instance = snapshot.of(GPU)[0].labels[2], snapshot.of(MIG)[0]
    device = (*snapshot.of(GPU)[0].labels, "team", "train-0", "main", "nvidia.com/mig-1g.10gb")
    snapshot = added(
        snapshot,
        Entity(GPU_POD, (*device, instance.label("mig_uuid")), (1.0,)),
        Entity(GPU_XID, (*snapshot.of(GPU)[0].labels, "79"), (1.0, 5.0)),
    )
    found: dict[frozenset[str], set[str]] = {}
    for name, some in samples(page(form, [snapshot])).items():
        for sample in some:
            assert sample.labels["UUID"] == uuid
            assert sample.labels["device"] == f"nvidia{sample.labels['gpu']}"
            assert (sample.labels.get("Hostname") or sample.labels.get("hostname")) == HOST
            assert all(sample.labels.values()), "a label without a value is none"
            found.setdefault(frozenset(sample.labels) - LABELS[form], set()).add(name)
            assert set(sample.labels) >= LABELS[form]
    mig, where = {"GPU_I_ID", "GPU_I_PROFILE"}, {"namespace", "pod", "container"}
    assert set(found) == {frozenset(), frozenset(mig), frozenset(mig | where), frozenset({"err_code"})}
    named = XID.named(form)
    assert named is not None
    assert found[frozenset({"err_code"})] == {named.name}


def test_what_a_mig_device_has_itself_is_not_given_for_its_gpu_as_well() -> None:
    """So that a sum over all series counts nothing twice, and the rest is there once for the GPU."""
    with Node("h100x1-mig") as node, capture_logs():
        snapshot = node.tick(3)
    found = samples(page("legacy", [snapshot]))
    used = {sample.labels.get("GPU_I_ID"): sample.value for sample in found["DCGM_FI_DEV_FB_USED"]}
    assert used == {m.label("gpu_instance_id"): (m["memory_used_bytes"] or 0) / 2**20 for m in snapshot.of(MIG)}
    (power,) = found["DCGM_FI_DEV_POWER_USAGE"]
    assert "GPU_I_ID" not in power.labels


def test_a_device_is_its_pods_only_where_one_container_has_it() -> None:
    """Replicas of one device in one container are one; what two containers share is given to neither."""
    entities = [gpu(GPU, index=index, power=100.0) for index in range(4)]
    pods = (
        pod("alone", "GPU-0"),
        *(pod("greedy", f"GPU-1::{replica}", 1) for replica in range(2)),
        *(pod(name, f"GPU-2::{number}", 2) for number, name in enumerate(("one", "other"))),
    )
    found = samples(page("legacy", [of(0, *entities, *pods)]))["DCGM_FI_DEV_POWER_USAGE"]
    assert {sample.labels["gpu"]: sample.labels.get("pod") for sample in found} == {
        "0": "alone",
        "1": "greedy",
        "2": None,
        "3": None,
    }


@pytest.mark.parametrize("device", ["MIG-a", "MIG-a::1", "nvidia0/gi7", "MIG-GPU-0/7/0"])
def test_an_instance_is_found_by_every_name_device_plugins_give_it(device: str) -> None:
    """Its UUID, a replica of it, GKE's and the old one."""
    instance = gpu(MIG, ("7", "0", "MIG-a"), memory_used_bytes=2.0**20)
    (sample,) = samples(page("legacy", [of(0, gpu(GPU), instance, pod("p", device))]))["DCGM_FI_DEV_FB_USED"]
    assert (sample.labels["pod"], sample.labels["GPU_I_ID"], sample.value) == ("p", "7", 1.0)


@pytest.mark.parametrize(
    ("column", "value", "legacy", "renamed"),
    [
        ("clock_sm_hertz", 1.98e9, 1980.0, 1.98e9),
        ("energy_driver_joules_total", 12345.678, 12345678.0, 12345.678),
        ("utilization_gpu", 37.0, 37.0, 0.37),
        ("memory_used", 3.0 * 2**20, 3.0, 3.0 * 2**20),
        ("power", 701.25, 701.25, 701.25),
        ("dram_active_ratio", 0.123456789, 0.123456789, 0.123456789),
        ("throttle_sw_power_cap_seconds_total", 1.5, 1.5e9, 1.5),
    ],
)
def test_a_value_is_in_the_unit_of_its_form(column: str, value: float, legacy: float, renamed: float) -> None:
    """MHz, mJ, percent, MiB and ns before 4.9, base units from then on; without noise from the conversion."""
    family = next(family for family in FAMILIES if family.columns == (column,))
    for form, expected in (("legacy", legacy), ("4.9", renamed)):
        named = family.named(form)
        assert named is not None
        (sample,) = samples(page(form, [of(0, gpu(GPU, **{column: value}))]))[named.name]
        assert sample.value == expected


def test_a_reading_that_is_absent_is_absent() -> None:
    """A GPU of which nothing is known has no series at all."""
    assert page("legacy", [of(0, gpu(GPU)), of(2, gpu(GPU))]) == ""


def test_a_rate_is_the_growth_since_the_scrape_before() -> None:
    """Over all links and both directions; none at first, none where a counter began anew, each snapshot's once."""

    def at(seconds: float, sent: float, received: float) -> Snapshot:
        links = (
            gpu(NVLINK, (link,), nvlink_transmit_bytes_total=sent, nvlink_receive_bytes_total=received) for link in "01"
        )
        return of(seconds, gpu(GPU, pcie_transmit_bytes_total=sent), *links)

    dcgm = Dcgm("4.9", HOST)
    rates = []
    for snapshot in (at(10, 0, 1000), at(14, 400, 3000), at(16, 500, 0), at(17, 500, 7)):
        entities = dcgm.entities(snapshot)
        assert dcgm.entities(snapshot) is entities
        found = samples(b"".join(Renderer(dcgm.kinds).render(entities, Form.TEXT)).decode())
        rates.append({name: some[0].value for name, some in found.items()})
    nvlink, pcie = "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND", "DCGM_FI_PROF_PCIE_TX_BYTES"
    assert rates == [{}, {nvlink: 1200.0, pcie: 100.0}, {nvlink: 100.0, pcie: 50.0}, {nvlink: 14.0, pcie: 0.0}]


def test_the_last_xid_is_the_newest_one() -> None:
    """Whatever its number, and however often another was seen."""
    xids = [
        Entity(GPU_XID, ("0", "H100", "GPU-0", code), (n, last))
        for code, n, last in (("31", 9.0, 5.0), ("13", 1.0, 7.0))
    ]
    (sample,) = samples(page("legacy", [of(0, gpu(GPU), *xids)]))["DCGM_FI_DEV_XID_ERRORS"]
    assert (sample.value, sample.labels["err_code"]) == (13.0, "13")


def test_the_page_has_both_names_renders_once_and_withholds_what_is_old() -> None:
    """With gpumon's own families before them, and the same way of caching."""
    hub, now = Hub(), [0.0]
    exposition = Exposition(hub, 6.0, lambda: now[0], Dcgm("legacy", HOST))
    hub.publish(of(0, gpu(GPU, temperature=40.0)))
    for _ in range(3):
        text = exposition.page(Form.TEXT, gzip=False).decode()
    assert exposition.renders[Form.TEXT, False] == 1
    found = samples(text)
    assert found["gpumon_gpu_temperature_celsius"][0].value == found["DCGM_FI_DEV_GPU_TEMP"][0].value == 40.0
    now[0] = 7.0
    assert "DCGM" not in exposition.page(Form.TEXT, gzip=False).decode()


@pytest.mark.parametrize(("node_name", "environment", "expected"), [("a", "b", "a"), ("", "b", "b"), ("", "", None)])
def test_the_setting_puts_it_on_the_metrics_port(
    node_name: str, environment: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the node's name as dcgm-exporter has it: what the pod was told, else the host's."""
    monkeypatch.setenv("NODE_NAME", environment)
    defaults = settings()
    telemetry = replace(defaults.telemetry, dcgm_compat="4.9")
    kubernetes = replace(defaults.kubernetes, node_name=node_name)
    hub = Hub()
    hub.publish(of(0, gpu(GPU, temperature=40.0)))

    async def scenario() -> bytes:
        server = MetricsServer(
            replace(defaults, telemetry=telemetry, kubernetes=kubernetes), hub, alive=lambda: None, clock=lambda: 1.0
        )
        await server.start()
        try:
            return (await ask(server.port)).body
        finally:
            await server.stop()

    (sample,) = samples(asyncio.run(scenario()).decode())["DCGM_FI_DEV_GPU_TEMP_CELSIUS"]
    assert sample.labels["hostname"] == (expected or socket.gethostname())


def test_nothing_of_it_is_loaded_or_sent_when_it_is_off() -> None:
    """The kinds are none of the catalogue's, so OTLP and the store never see them; the modules are not imported."""
    assert not {kind.name for form in FORMS for kind in table(form).kinds} & {kind.name for kind in KINDS}
    script = (
        "import sys; from gpumon.settings import Settings; from gpumon.hub import Hub; from gpumon.web.metrics import MetricsServer;"
        "import gpumon.app; MetricsServer(Settings(), Hub(), alive=lambda: None);"
        "print([name for name in sys.modules if 'dcgm' in name])"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
