"""Processes by the API: one row per process and GPU, and nothing that is not known."""

from __future__ import annotations

import json

from tests.snapshots import node
from tests.web.api.serving import filled
from tests.web.api.test_server import asked, told

from gpumon.catalog import GPU_HEALTH
from gpumon.gpuprocess import GpuProcess
from gpumon.hub import Hub
from gpumon.process.container import NOWHERE, Container
from gpumon.process.tracked import ProcessRecord
from gpumon.web.api.present import FIELDS, processes

SNAPSHOT = node(gpus=2, links=0)
FIRST, SECOND = (entity.label("gpu_uuid") for entity in SNAPSHOT.of(GPU_HEALTH))


def process(pid: int, *gpus: tuple[str, GpuProcess], **known: object) -> ProcessRecord:
    """Give a process of which only this is known."""
    facts: dict[str, object] = {
        "pid": pid,
        "name": "python",
        "user": "",
        "started": None,
        "category": "unknown",
        "confidence": 0.0,
        "rule": "none",
        "untried": (),
        "contexts": "C",
        "cpu_seconds": None,
        "resident_bytes": None,
        "container": NOWHERE,
        "namespace": "",
        "pod": "",
        "container_name": "",
        "job": "",
        "command_line": "",
        "gpus": gpus,
    }
    return ProcessRecord(**(facts | known))  # type: ignore[arg-type]


def test_a_process_on_two_gpus_is_two_rows() -> None:
    """Each with what it does there; by GPU, and the one with the most memory first."""
    both = process(7, (FIRST, GpuProcess(7, "C", 10)), (SECOND, GpuProcess(7, "C", 20)))
    other = process(8, (FIRST, GpuProcess(8, "C", 30)))
    answer = told(asked("/api/processes", options={"processes": lambda: (both, other)}))
    rows = [(row["gpu_id"], row["pid"], row["memory_used_bytes"]) for row in answer["processes"]]
    assert rows == [(0, 8, 30), (0, 7, 10), (1, 7, 20)]
    assert [row["gpu_uuid"] for row in answer["processes"]] == [FIRST, FIRST, SECOND]


def test_what_is_not_known_of_a_process_is_left_out() -> None:
    """And a use of 0 % is told: that is known."""
    (row,) = processes([process(7, (FIRST, GpuProcess(7, "C", None, sm=0.0)))], SNAPSHOT)["processes"]  # type: ignore[misc]
    assert row.keys() == {
        *("gpu_id", "gpu_uuid", "pid", "name", "category", "confidence", "rule", "contexts"),
        "sm_utilization_percent",
    }
    assert row["sm_utilization_percent"] == 0.0


def test_everything_that_is_known_of_a_process_is_told() -> None:
    """Every field of the table, as JSON."""
    whole = process(
        7,
        (FIRST, GpuProcess(7, "CG", 10, 1, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)),
        user="ann",
        started=1_700_000_000.0,
        cpu_seconds=1.5,
        resident_bytes=11,
        container=Container(id="0" * 64, runtime="containerd"),
        namespace="ml",
        pod="train-0",
        container_name="main",
        job="42",
        command_line="python train.py",
    )
    (row,) = json.loads(json.dumps(processes([whole], SNAPSHOT)))["processes"]
    assert row.keys() == {"gpu_id", "gpu_uuid", *(field.name for field in FIELDS)}
    assert row["started"] == "2023-11-14T22:13:20.000Z"


def test_a_gpu_that_is_not_known_any_more_has_no_index() -> None:
    """The process is told all the same."""
    (row,) = processes([process(7, ("GPU-gone", GpuProcess(7, "C", 10)))], SNAPSHOT)["processes"]  # type: ignore[misc]
    assert "gpu_id" not in row
    assert row["gpu_uuid"] == "GPU-gone"


def test_processes_of_a_while_ago_are_not_told_as_those_of_now() -> None:
    """Nor are there none before the first look: both are not known."""
    hub = filled(SNAPSHOT)
    assert hub.latest is not None
    late = hub.latest.monotonic + 60.0
    options = {"processes": tuple, "clock": lambda: late}
    answers = [asked("/api/processes", hub=each, options=options) for each in (hub, Hub())]
    assert [answer.status for answer in answers] == [503, 503]
    assert [told(answer)["error"].partition(",")[0] for answer in answers] == [
        "sampling has stopped",
        "there are no readings yet: the first come with the first tick",
    ]


def test_processes_that_are_not_read_are_said_not_to_be() -> None:
    """With the setting."""
    answer = asked("/api/processes")
    assert answer.status == 503
    assert "processes.enabled" in told(answer)["error"]
