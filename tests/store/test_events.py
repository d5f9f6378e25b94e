"""What happened between two snapshots is an event, once."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gpumon.catalog import GPU, GPU_DOWN, GPU_HEALTH, GPU_XID, Entity, Snapshot
from gpumon.catalog.events import CHANGES, EPISODES
from gpumon.catalog.llm import LLM_MODEL_LOADS
from gpumon.catalog.records import Event
from gpumon.store.events import Watch
from gpumon.store.sink import Store
from tests.store import crash
from tests.store.nodes import START, Node, labels


def of(seconds: float, *entities: Entity) -> Snapshot:
    return Snapshot(START + seconds, seconds, int(seconds), entities)


def health(up: float, gpu: int = 0) -> Entity:
    values = tuple(up if column.name == "up" else 0.0 for column in GPU_HEALTH.columns)
    return Entity(GPU_HEALTH, labels(GPU_HEALTH, gpu), values)


def gpu(**readings: float) -> Entity:
    values = [0.0] * len(GPU.columns)
    for name, value in readings.items():
        values[GPU.index[name]] = value
    return Entity(GPU, labels(GPU, 0), tuple(values))


def test_a_device_lost_and_back_is_told_with_the_reason() -> None:
    """Only the device it happened to, and only when it changes."""
    watch = Watch()
    down = Entity(GPU_DOWN, (*labels(GPU, 1), "NVML_ERROR_GPU_IS_LOST"), (1.0,))
    assert watch.events(of(0, health(1), health(1, 1))) == []
    (lost,) = watch.events(of(2, health(1), health(0, 1), down))
    assert watch.events(of(4, health(1), health(0, 1), down)) == []
    (back,) = watch.events(of(6, health(1), health(1, 1)))
    assert (lost.kind, lost.gpu_id, lost.timestamp) == ("device_lost", 1, START + 2)
    assert lost.message == "GPU 1 does not answer: NVML_ERROR_GPU_IS_LOST"
    assert (back.kind, back.gpu_uuid) == ("device_back", labels(GPU, 1)[2])
    assert back.message == "GPU 1 answers again after 4 s"


def test_a_device_that_is_down_at_the_start_is_told() -> None:
    """Someone who looks at the events must not think it was well."""
    (lost,) = Watch().events(of(0, health(0)))
    assert lost.kind == "device_lost"


def test_an_xid_is_an_event_each_time_it_is_counted() -> None:
    """The first of a code, and its repetitions."""
    watch = Watch()
    watch.events(of(0))
    counts = (1.0, 1.0, 3.0)
    found = [watch.events(of(i + 1, Entity(GPU_XID, (*labels(GPU, 0), "79"), (n,)))) for i, n in enumerate(counts)]
    assert [len(events) for events in found] == [1, 0, 1]
    assert (found[0][0].kind, found[0][0].subject) == ("xid", "79")
    detail = json.loads(found[2][0].detail or "")
    assert (detail["xid"], detail["value"], detail["previous"]) == ("79", 3.0, 1.0)


def test_what_a_device_counted_before_the_start_is_no_event() -> None:
    """Memory errors of last month are not news."""
    watch = Watch()
    name = "ecc_errors_uncorrected_volatile_total"
    assert watch.events(of(0, gpu(**{name: 5.0}))) == []
    assert watch.events(of(2, gpu(**{name: 0.0}))) == []  # the driver was loaded again
    (event,) = watch.events(of(4, gpu(**{name: 2.0})))
    assert event.kind == "ecc_uncorrected"


def test_throttling_that_flickers_is_one_episode() -> None:
    """Its end is told when it has been over for a minute, with how long it took."""
    watch = Watch()
    found: list[Event] = []
    for second in range(0, 200, 2):
        hot = 20 <= second < 60 and second % 4 == 0
        found += watch.events(of(second, gpu(throttle_active_hw_thermal=float(hot))))
    assert [event.kind for event in found] == ["throttle_hw_thermal_start", "throttle_hw_thermal_end"]
    assert found[0].timestamp == START + 20
    assert json.loads(found[1].detail or "") == {"seconds": 36.0}


def test_a_busy_node_without_faults_has_no_events() -> None:
    """An hour of eight GPUs."""
    watch = Watch()
    assert [event for snapshot in Node(gpus=8).snapshots(1800) for event in watch.events(snapshot)] == []


def test_every_rule_can_fire_and_formats_its_message() -> None:
    """Sweeps the catalogue's rules."""
    for rule in CHANGES:
        watch = Watch()
        names = tuple("7" for _ in rule.kind.labels)
        low, high = Entity(rule.kind, names, (0.0,) * len(rule.kind.columns)), None
        high = replace(low, values=(1.0,) * len(rule.kind.columns))
        first, second = (low, high) if rule.rises else (high, low)
        watch.events(of(0, first))
        assert rule.event in [event.kind for event in watch.events(of(2, second))]
    for episode in EPISODES:
        assert episode.column in episode.kind.index


def test_a_model_that_comes_and_goes_is_told_by_name() -> None:
    """What was in memory before gpumon looked is no event; what is taken up and let go later is, with model and server."""
    watch = Watch()

    def model(name: str, loads: float, unloads: float) -> Entity:
        return Entity(LLM_MODEL_LOADS, ("127.0.0.1:11434", "ollama", name), (loads, unloads))

    assert watch.events(of(0, model("old", 0, 0))) == []
    assert watch.events(of(2, model("old", 0, 0), model("new", 1, 0)))[0].kind == "model_load"
    (gone,) = watch.events(of(4, model("old", 0, 1), model("new", 1, 0)))
    assert (gone.kind, gone.subject) == ("model_unload", "old")
    assert gone.message == "127.0.0.1:11434 has let old go from memory"


def told(folder: Path, *events: Event) -> list[tuple[str, str, str, str | None]]:
    """Run a store that takes events and ends, as killed; give all that its database holds."""
    store = Store(crash.job(folder))
    store.append(*events)
    store.write_waiting()
    store.stop_writing()
    with closing(sqlite3.connect(folder / "gpumon.db")) as connection:
        return connection.execute("SELECT timestamp, kind, message, detail FROM events ORDER BY id").fetchall()


def test_what_an_ended_gpumon_left_open_is_closed_once_by_the_next(tmp_path: Path) -> None:
    """Nobody saw the end of it, and that is said; what had ended, or is of another GPU or subject, is left alone."""
    about = {"gpu_id": 0, "gpu_uuid": "GPU-a", "subject": "gpu_xid"}
    begun = Event(timestamp=START, kind="alert_start", message="GPU 0 is hot", **about)  # type: ignore[arg-type]
    other = replace(begun, subject="gpu_memory")
    over = replace(other, timestamp=START + 5, kind="alert_end")
    first = told(tmp_path, begun, other, over)
    assert [row[1] for row in first] == ["alert_start", "alert_start", "alert_end"]
    news = replace(begun, timestamp=START + 60)
    again = told(tmp_path, news)
    assert again[:3] == first
    (closed, begun_anew) = again[3:]
    assert closed[1:] == (
        "alert_end",
        "GPU 0 is hot: gpumon ended before this did; when it was over is not known",
        '{"end_known": false}',
    )
    assert closed[0] == first[0][0]
    assert begun_anew[1] == "alert_start"
    third = told(tmp_path, Event(timestamp=START + 90, kind="device_back", message="GPU 0 answers again"))
    assert [row[1] for row in third[5:]] == ["alert_end", "device_back"]


def test_how_long_something_took_does_not_follow_the_clock_on_the_wall() -> None:
    """It may be set back by an hour meanwhile; when things happened is told by it all the same."""
    episode = next(each for each in EPISODES if each.kind is GPU)
    watch, busy, rest = Watch(), gpu(**{episode.column: 1.0}), episode.rest_seconds
    (start,) = watch.events(of(0, health(0), busy))[1:]
    back = [
        Snapshot(START + seconds - 3600, seconds, int(seconds), (health(1), entity))
        for seconds, entity in ((10.0, busy), (10.0 + rest, gpu()))
    ]
    (answers,) = watch.events(back[0])
    (end,) = watch.events(back[1])
    assert answers.message.endswith("answers again after 10 s")
    assert (start.kind, end.kind) == (f"{episode.event}_start", f"{episode.event}_end")
    assert end.message.endswith("over after 10 s")
    assert end.timestamp == START + 10 + rest - 3600
