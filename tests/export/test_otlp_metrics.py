"""What goes out by OTLP is what the snapshot says, in OpenTelemetry's terms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.export import otlp_made as made

from gpumon.catalog import (
    AGE,
    GPU,
    GPU_PROCESS,
    GPU_XID,
    HOST,
    KINDS,
    LLM_TRAFFIC,
    WORKLOAD,
    Entity,
    EntityKind,
    Histogram,
    Reading,
    Snapshot,
)
from gpumon.export import otlp_metrics, otlp_requests
from gpumon.export.otlp_flow import Batch
from gpumon.export.otlp_metrics import Encoder
from gpumon.export.otlp_signal import sender

CUMULATIVE, DELTA = otlp_requests.CUMULATIVE, otlp_requests.DELTA
# What gRPC servers take unless told otherwise.
SERVER_BYTES = 4_194_304
Key = tuple[str, frozenset[tuple[str, str]]]


def encoder(*, delta: bool = False) -> Encoder:
    """Give an encoder of a gpumon that started at made.START."""
    return Encoder(sender({"service.name": "gpumon"}, "1"), made.START, delta=delta)


def metrics(batch: Batch) -> list[Any]:
    """Give all metrics of a batch."""
    requests = [ExportMetricsServiceRequest.FromString(body) for body in batch.bodies]
    return [m for r in requests for rm in r.resource_metrics for sm in rm.scope_metrics for m in sm.metrics]


def points(batch: Batch) -> dict[Key, Any]:
    """Give all points of a batch by name and attributes, none of them twice."""
    found: dict[Key, Any] = {}
    for metric in metrics(batch):
        for point in getattr(metric, metric.WhichOneof("data")).data_points:
            attributes = [(pair.key, made.text(pair.value)) for pair in point.attributes]
            assert len(dict(attributes)) == len(attributes), f"{metric.name} has an attribute twice: {attributes}"
            key = (metric.name, frozenset(attributes))
            assert key not in found, f"two points are {key}"
            found[key] = point
    return found


def expected_key(entity: Entity, reading: Reading, key: tuple[str, ...] = ()) -> Key:
    """Give name and attributes of one value or histogram, put together from the catalogue's rows."""
    attributes = made.attributes(entity, reading, key)
    return entity.kind.otel_name(reading), frozenset(attributes.items())


def observed(point: Any) -> Histogram:
    """Give a histogram's point as gpumon's own; its count is that of its buckets."""
    assert point.count == sum(point.bucket_counts)
    return Histogram(tuple(point.explicit_bounds), tuple(map(float, point.bucket_counts)), point.sum)


def one(kind: EntityKind, at: float, number: int, labels: tuple[str, ...], **values: float) -> Snapshot:
    """Give a snapshot of one entity with few values."""
    entity = Entity(kind, labels, tuple(values.get(column.name) for column in kind.columns))
    return Snapshot(at, at, number, (entity,))


def traffic(histogram: Histogram | None, *, server: str = "127.0.0.1:8000", source: str = "server") -> Entity:
    """Give what a model does, with one histogram."""
    values = (None,) * len(LLM_TRAFFIC.columns)
    rest = (None,) * (len(LLM_TRAFFIC.histograms) - 1)
    return Entity(LLM_TRAFFIC, (server, "vllm", "llama", source), values, (histogram, *rest))


def told(
    subject: Encoder, histograms: Any, *, source: str = "server", undelivered: tuple[int, ...] = ()
) -> list[tuple[float, Histogram] | None]:
    """Give what goes out of one histogram a second later each: seconds of its start after gpumon's, and what it holds."""
    sent: list[tuple[float, Histogram] | None] = []
    for number, histogram in enumerate(histograms, 1):
        batch = subject.encode(Snapshot(made.START + number, number, number, (traffic(histogram, source=source),)))
        sent += [
            (point.start_time_unix_nano / 1e9 - made.START, observed(point)) for point in points(batch).values()
        ] or [None]
        if number not in undelivered:
            batch.delivered()
    return sent


def test_every_reading_goes_out_with_value_labels_and_time() -> None:
    """Walk the catalogue: every value of a snapshot is one point with the row's name and attributes, no more."""
    snapshot = made.snapshot(3)
    found = points(encoder().encode(snapshot))
    expected: dict[Key, float] = {}
    spread: dict[Key, Histogram | None] = {}
    for entity in snapshot.entities:
        for index, value in enumerate(entity.values):
            assert value is not None
            column = entity.kind.columns[index]
            otel = column.reading.otel
            key = expected_key(entity, column.reading, column.key)
            expected[key] = value / 100 if otel and otel.scale == 0.01 else value
        for reading, histogram in zip(entity.kind.histograms, entity.histograms, strict=True):
            spread[expected_key(entity, reading)] = histogram
    assert found.keys() == expected.keys() | spread.keys()
    assert not expected.keys() & spread.keys()
    for key, point in found.items():
        if key in spread:
            assert observed(point) == spread[key]
        else:
            assert point.as_double == expected[key]
        assert point.time_unix_nano == int(snapshot.time * 1e9)
    assert {entity.kind for entity in snapshot.entities} == set(KINDS) - {AGE}


def test_what_was_not_read_is_not_sent() -> None:
    """A reading that is None is absent, and an empty label is no attribute."""
    snapshot = one(GPU, made.START, 1, ("0", "", "GPU-1"), temperature=40.0)
    [(name, attributes)] = points(encoder().encode(snapshot))
    assert name == "hw.temperature"
    assert dict(attributes) == {"gpu_id": "0", "hw.id": "GPU-1", "hw.type": "gpu", "hw.sensor_location": "gpu"}


def test_metrics_are_declared_once_and_alike() -> None:
    """Readings that share a convention's name share its unit and kind, so that they are one metric."""
    seen = metrics(encoder().encode(made.snapshot()))
    assert len({metric.name for metric in seen}) == len(seen)
    declared: dict[str, set[tuple[str, bool, bool, bool]]] = {}
    for kind in KINDS:
        for reading in (*kind.readings, *kind.histograms):
            additive, histogram = reading.otel is not None and reading.otel.additive, reading in kind.histograms
            assert not (additive and (reading.counter or histogram))
            form = (reading.otel_unit, reading.counter, additive, histogram)
            declared.setdefault(kind.otel_name(reading), set()).add(form)
    assert all(len(forms) == 1 for forms in declared.values())


def test_kinds_and_units_follow_the_conventions() -> None:
    """Counters are monotonic sums, what can be summed over devices is a sum that is not, the rest are gauges or spread."""
    by_name = {metric.name: metric for metric in metrics(encoder().encode(made.snapshot()))}
    forms = {}
    for name, metric in by_name.items():
        form = metric.WhichOneof("data")
        forms[name] = (form, metric.unit, metric.sum.is_monotonic if form == "sum" else None)
    assert forms["hw.gpu.utilization"] == ("gauge", "1", None)
    assert forms["hw.gpu.memory.usage"] == ("sum", "By", False)
    assert forms["hw.energy"] == ("sum", "J", True)
    assert forms["hw.gpu.io"] == ("sum", "By", True)
    assert forms["hw.errors"] == ("sum", "{error}", True)
    assert forms["hw.temperature"] == ("gauge", "Cel", None)
    assert forms["gpumon.gpu.clock"] == ("gauge", "Hz", None)
    assert forms["gpumon.gpu.performance.state"] == ("gauge", "", None)
    assert by_name["hw.energy"].sum.aggregation_temporality == CUMULATIVE
    assert forms["gen_ai.server.time_to_first_token"] == ("histogram", "s", None)
    assert forms["gen_ai.server.request.duration"] == ("histogram", "s", None)
    assert forms["gen_ai.server.time_per_output_token"] == ("histogram", "s", None)
    assert forms["gpumon.llm.tokens.per.second"] == ("histogram", "", None)
    assert by_name["gpumon.llm.tokens.per.second"].histogram.aggregation_temporality == CUMULATIVE


def test_a_mig_device_is_hardware_of_its_own() -> None:
    """Its id is the MIG device's, its parent the GPU's, so that sums by hw.id count no memory twice."""
    found = points(encoder().encode(made.snapshot()))
    uses = [dict(attributes) for name, attributes in found if name == "hw.gpu.memory.usage"]
    parents = {use["hw.id"]: use.get("hw.parent") for use in uses}
    assert len(parents) == 2 * made.GPU_COUNT
    assert parents["MIG-00000002-0000-0000-0000-000000000000"] == "GPU-00000002-0000-0000-0000-000000000000"
    assert parents["GPU-00000002-0000-0000-0000-000000000000"] is None


def test_counters_say_since_when_they_count() -> None:
    """gpumon's own since its start, the host's since boot, a driver's since gpumon first saw it."""
    snapshot = made.snapshot(5)
    host = one(HOST, 0, 0, (), cpu_seconds_total=9.0, boot_time_seconds=made.START - 100).entities
    snapshot = replace(snapshot, entities=(*(e for e in snapshot.entities if e.kind is not HOST), *host))
    start = {name: point.start_time_unix_nano for (name, _), point in points(encoder().encode(snapshot)).items()}
    assert start["gpumon.ticks"] == made.START * 1e9
    assert start["gpumon.gpu.busy"] == made.START * 1e9
    assert start["system.cpu.time"] == (made.START - 100) * 1e9
    assert start["hw.energy"] in (made.START * 1e9, snapshot.time * 1e9)  # integrated, or the driver's
    assert start["gpumon.gpu.nvlink.transmit"] == snapshot.time * 1e9
    assert start["hw.temperature"] == 0


def test_a_reset_counter_gets_a_new_start() -> None:
    """A value that fell counts from where it was last seen; the start stays otherwise."""
    labels = ("0", "H100", "GPU-1")
    subject, starts = encoder(), []
    for number, value in enumerate((100.0, 150.0, 7.0, 9.0), 1):
        batch = subject.encode(one(GPU, made.START + number, number, labels, pcie_replays_total=value))
        starts += [point.start_time_unix_nano / 1e9 - made.START for point in points(batch).values()]
    assert starts == [1, 1, 2, 2]


def test_a_gpu_that_comes_back_keeps_its_counters_start() -> None:
    """A device that was gone for a while, hung or lost, goes on where it was."""
    labels = ("0", "H100", "GPU-1")
    subject = encoder()
    subject.encode(one(GPU, made.START + 1, 1, labels, pcie_replays_total=5.0))
    subject.encode(Snapshot(made.START + 2, 2, 2, ()))
    batch = subject.encode(one(GPU, made.START + 3, 3, labels, pcie_replays_total=6.0))
    assert [point.start_time_unix_nano for point in points(batch).values()] == [(made.START + 1) * 1e9]


def test_differences_are_what_was_counted_since_the_last_delivery() -> None:
    """Delta: own counters from gpumon's start, a driver's from its second sight; a failed export loses nothing."""
    labels = ("0", "H100", "GPU-1")
    subject = encoder(delta=True)
    sent = []
    for number, (own, driver, delivered) in enumerate(
        ((3.0, 100.0, True), (4.0, 110.0, False), (6.0, 125.0, True), (1.0, 5.0, True)), 1
    ):
        snapshot = Snapshot(
            made.START + number,
            number,
            number,
            (
                *one(GPU_XID, 0, 0, (*labels, "79"), xid_errors_total=own).entities,
                *one(GPU, 0, 0, labels, pcie_replays_total=driver, memory_used=1.0).entities,
            ),
        )
        batch = subject.encode(snapshot)
        by_name = {name: point for (name, _), point in points(batch).items()}
        sent.append(
            {
                name: (point.as_double, point.start_time_unix_nano / 1e9 - made.START)
                for name, point in by_name.items()
                if name != "hw.gpu.memory.usage"
            }
        )
        for metric in metrics(batch):
            temporality = CUMULATIVE if metric.name == "hw.gpu.memory.usage" else DELTA
            assert metric.sum.aggregation_temporality == temporality
        if delivered:
            batch.delivered()
    assert sent == [
        {"hw.errors": (3.0, 0)},
        {"hw.errors": (1.0, 1), "gpumon.gpu.pcie.replays": (10.0, 1)},
        {"hw.errors": (3.0, 1), "gpumon.gpu.pcie.replays": (25.0, 1)},
        {"hw.errors": (1.0, 3), "gpumon.gpu.pcie.replays": (5.0, 3)},
    ]


BOUNDS = (0.5, 1.0)


def test_a_histogram_that_lost_something_or_has_other_buckets_gets_a_new_start() -> None:
    """The start stays while every bucket only grows; a restart is seen though the whole count is higher."""
    seen = (
        Histogram(BOUNDS, (5.0, 0.0, 0.0), 1.0),
        Histogram(BOUNDS, (5.0, 2.0, 0.0), 2.5),
        Histogram(BOUNDS, (0.0, 9.0, 1.0), 9.0),
        Histogram(BOUNDS, (0.0, 9.0, 2.0), 12.0),
        Histogram((0.5,), (9.0, 9.0), 15.0),
        None,
        Histogram((0.5,), (9.0, 10.0), 16.0),
    )
    sent = told(encoder(), seen)
    assert [point and point[0] for point in sent] == [1, 1, 2, 2, 4, None, 4]
    assert [point and point[1] for point in sent] == list(seen)


def test_histograms_as_differences() -> None:
    """Delta: from the second sight, what was observed since the last delivery; a new one from nothing, by its own bounds."""
    seen = (
        Histogram(BOUNDS, (5.0, 0.0, 0.0), 1.0),
        Histogram(BOUNDS, (5.0, 2.0, 0.0), 2.5),
        Histogram(BOUNDS, (6.0, 2.0, 0.0), 2.75),
        Histogram((0.5,), (1.0, 2.0), 3.0),
        Histogram((0.5,), (1.0, 2.0), 3.0),
    )
    assert told(encoder(delta=True), seen, undelivered=(2,)) == [
        None,
        (1, Histogram(BOUNDS, (0.0, 2.0, 0.0), 1.5)),
        (1, Histogram(BOUNDS, (1.0, 2.0, 0.0), 1.75)),
        (3, Histogram((0.5,), (1.0, 2.0), 3.0)),
        (4, Histogram((0.5,), (0.0, 0.0), 0.0)),
    ]
    subject = encoder(delta=True)
    subject.encode(Snapshot(made.START, 1, 1, (traffic(seen[0]),)))
    [metric] = metrics(subject.encode(Snapshot(made.START + 1, 2, 2, (traffic(seen[1]),))))
    assert metric.histogram.aggregation_temporality == DELTA


@pytest.mark.parametrize("delta", [False, True])
def test_what_gpumon_measured_of_a_model_counts_from_its_start(delta: bool) -> None:
    """Of what passed through the proxy nothing was counted before, so that the first sight is told as well."""
    first = Histogram(BOUNDS, (1.0, 0.0, 0.0), 0.25)
    assert told(encoder(delta=delta), [first], source="proxy") == [(0, first)]


def test_a_histogram_that_cannot_be_is_left_out() -> None:
    """What is not finite, below 0 or beyond 64 bits was no reading, and harms nothing else; no buckets are allowed."""
    wrong = [
        Histogram(BOUNDS, (1.0, float("nan"), 0.0), 1.0),
        Histogram(BOUNDS, (1.0, float("inf"), 0.0), 1.0),
        Histogram(BOUNDS, (1.0, 2.0**64, 0.0), 1.0),
        Histogram(BOUNDS, (5.0, -1.0, 0.0), 1.0),
        Histogram(BOUNDS, (5.0, 1.0, 0.0), float("nan")),
    ]
    whole = Histogram((), (4.0,), 1.0)
    assert told(encoder(), [*wrong, whole]) == [None] * len(wrong) + [(6, whole)]


@pytest.mark.parametrize(
    ("server", "attributes"),
    [
        ("127.0.0.1:8000", {"server.address": "127.0.0.1", "server.port": 8000}),
        ("[::1]:8000", {"server.address": "::1", "server.port": 8000}),
        ("vllm.local", {"server.address": "vllm.local"}),
        ("vllm:123456", {"server.address": "vllm:123456"}),
        ("", {}),
    ],
)
def test_host_and_port_are_attributes_of_their_own(server: str, attributes: dict[str, Any]) -> None:
    """The conventions have the port apart, as a number; what is no host and port stays whole."""
    [metric] = metrics(encoder().encode(Snapshot(0, 0, 1, (traffic(Histogram((), (1.0,), 1.0), server=server),))))
    [point] = metric.histogram.data_points
    found = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in point.attributes}
    rest = {"gen_ai.provider.name": "vllm", "gen_ai.request.model": "llama", "source": "server"}
    assert found == rest | attributes


def test_large_snapshots_are_sent_in_parts() -> None:
    """No request is longer than a server takes, and the parts are the whole: many points, long labels, many buckets."""
    whole = made.snapshot(devices=200)
    fine = tuple(index / 10 for index in range(2000))
    entities = [traffic(Histogram(fine, (1e9,) * 2001, 1.0), server=f"127.0.0.1:{port}") for port in range(1000, 1300)]
    batch = encoder().encode(replace(whole, entities=(*whole.entities, *entities)))
    assert len(batch.bodies) > 4
    assert SERVER_BYTES / 2 < max(map(len, batch.bodies)) < SERVER_BYTES
    count = sum(len(entity.values) + len(entity.histograms) for entity in whole.entities) + len(entities)
    assert batch.items == len(points(batch)) == count


def test_nothing_is_kept_of_what_comes_and_goes() -> None:
    """Entities that churn, as processes do, leave no trace beyond a bounded number of counters."""
    subject = encoder()
    for number in range(1, 3000):
        labels = ("0", "H100", f"GPU-{number}", "79")
        subject.encode(one(GPU_XID, made.START + number, number, labels, xid_errors_total=1.0))
    assert len(subject._series) == 1
    assert len(subject._gone) == otlp_metrics.GONE_LIMIT


def test_few_histograms_are_kept_of_what_is_gone() -> None:
    """They are larger than counters, and a server's next start has another port."""
    subject = encoder()
    for number in range(1, 3 * otlp_metrics.GONE_HISTOGRAMS_LIMIT):
        entity = traffic(Histogram((), (1.0,), 1.0), server=f"127.0.0.1:{number}")
        subject.encode(Snapshot(made.START + number, number, number, (entity,)))
    assert len(subject._gone) == otlp_metrics.GONE_HISTOGRAMS_LIMIT


@pytest.mark.parametrize(
    ("where", "attributes"),
    [
        (
            ("ml", "llama-0", "server"),
            {"k8s.namespace.name": "ml", "k8s.pod.name": "llama-0", "k8s.container.name": "server"},
        ),
        (("", "", "0123456789ab"), {"container.id": "0123456789ab"}),  # a container outside Kubernetes
        (("", "", ""), {}),
    ],
)
def test_readings_of_pods_and_containers_say_whose_they_are(
    where: tuple[str, str, str], attributes: dict[str, str]
) -> None:
    """The conventions' attributes for pods and containers, on workloads and on single processes."""
    workload = (*("0", "GPU-1", "ml_training"), *where, "")
    process = (*("0", "H100", "GPU-1", "", "4242", "python3", "root", "ml_training"), *where)
    pids = []
    for kind, labels in ((WORKLOAD, workload), (GPU_PROCESS, process)):
        [(_, found)] = points(encoder().encode(one(kind, made.START, 1, labels, memory_used_bytes=1.0)))
        names = ("k8s.", "container")
        assert {name: value for name, value in found if name.startswith(names)} == attributes
        pids += [value for name, value in found if name == "process.pid"]
    assert pids == ["4242"]


def test_a_snapshot_is_collected_once() -> None:
    """The newest snapshot is sent once, again only while it waits and nothing is newer, and never after that."""
    latest: list[Snapshot | None] = [None]
    collect = otlp_metrics.newest(lambda: latest[0], encoder(), 6.0, monotonic=lambda: 0.0)
    assert collect(None) is None
    latest[0] = made.snapshot(1)
    first = collect(None)
    assert first is not None
    assert collect(None) is None
    assert collect(first) is first
    latest[0] = made.snapshot(2)
    assert collect(first) not in (None, first)


def test_a_stale_snapshot_is_withheld() -> None:
    """When sampling has stopped, what goes out is that it has, at the time of the export, as /metrics has it."""
    now = [0.0]
    snapshot = made.snapshot(1)
    collect = otlp_metrics.newest(lambda: snapshot, encoder(), 6.0, clock=lambda: 5000.0, monotonic=lambda: now[0])
    first = collect(None)
    assert first is not None
    assert first.items > 100
    now[0] = snapshot.monotonic + 6.1
    for _ in range(2):
        batch = collect(None)
        assert batch is not None
        [((name, _), point)] = points(batch).items()
        assert (name, point.as_double, point.time_unix_nano) == ("gpumon.up", 0, 5000e9)


def test_what_metrics_leaves_out_is_left_out() -> None:
    """What is not finite was no reading, of two entities with equal labels the first is meant, and any label passes."""
    labels = ("0", "H100 \udcff", "GPU-1")
    twice = one(GPU, made.START, 1, labels, temperature=40.0, power=float("nan"))
    other = one(GPU, made.START, 1, labels, temperature=50.0)
    [((_, attributes), point)] = points(
        encoder().encode(replace(twice, entities=twice.entities + other.entities))
    ).items()
    assert point.as_double == 40
    assert dict(attributes)["hw.name"] == "H100 ?"
