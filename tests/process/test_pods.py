"""GPUs lead to pods by the kubelet's word, and a kubelet that does anything else costs only the names."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from gpumon.catalog import GPU_POD, POD_NAMES, PROCESS_CATEGORY, SHARE_REASON, WORKLOAD, Snapshot
from gpumon.gpu.simulate import SimulatedProcess
from gpumon.process import grpc as own_grpc
from gpumon.process import pods as pods_module
from gpumon.process.grpc import MOST_BYTES, GrpcError, call
from gpumon.process.podresources import Allocation, decode
from gpumon.process.pods import Place, Pods, find_place
from gpumon.settings import Kubernetes, Processes
from tests.process.kubelet import Given, Kubelet, always, response
from tests.process.node import GIB, ProcessNode, WrittenProc, values

ID = "a1" * 32


def uid(number: int) -> str:
    """Give a pod's UID."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def cgroup(number: int) -> str:
    """Give the cgroup of a container of a pod."""
    return f"0::/kubepods.slice/kubepods-pod{uid(number).replace('-', '_')}.slice/cri-containerd-{ID}.scope\n"


class Pod:
    """A node with a kubelet, and processes that are in pods."""

    def __init__(self, tmp_path: Path, profile: str = "h100x2") -> None:
        self.socket = tmp_path / "kubelet.sock"
        root = tmp_path / "proc"
        root.mkdir()
        self.proc = WrittenProc(root)
        self.pods = Pods(Kubernetes(pod_resources_socket=str(self.socket)), structlog.get_logger())
        self.node = ProcessNode(profile, settings=Processes(proc_root=str(root)), places=[self.pods])

    def process(self, pid: int, pod: int, line: str = "python3 train.py") -> None:
        """Let a process run in a pod."""
        self.proc.put(pid, line, cgroup=cgroup(pod))

    def tick(self) -> Snapshot:
        """Ask the kubelet, then take a snapshot."""
        self.node.run(self.pods.ask())
        return self.node.tick()

    def uuids(self) -> list[str]:
        """Give the GPUs' UUIDs."""
        self.node.tick()
        return [use.gpu.labels[2] for use in self.node.gpu.uses]


@contextmanager
def started(tmp_path: Path, profile: str = "h100x2") -> Iterator[Pod]:
    """Give a node of pods."""
    made = Pod(tmp_path, profile)
    with made.node:
        yield made


def names(snapshot: Snapshot, gpu: int = 0) -> set[tuple[str, str, str]]:
    """Give (namespace, pod, container) of a GPU's workloads that have processes."""
    return {
        (entity.label("namespace"), entity.label("pod"), entity.label("container"))
        for entity in snapshot.of(WORKLOAD)
        if entity.labels[0] == str(gpu) and entity["processes"]
    }


def test_a_whole_gpu_leads_to_its_pod(tmp_path: Path) -> None:
    """Pod and container are the kubelet's; what it gave away is said as well."""
    with started(tmp_path) as pod:
        uuid = pod.uuids()[0]
        pod.process(10, 1)
        pod.node.put(0, 10)
        given: list[Given] = [("ml", "trainer-0", "main", "nvidia.com/gpu", [uuid])]
        with Kubelet(pod.socket, always(given)):
            snapshot = pod.tick()
    assert names(snapshot) == {("ml", "trainer-0", "main")}
    (info,) = snapshot.of(GPU_POD)
    assert info.labels[2:] == (uuid, "ml", "trainer-0", "main", "nvidia.com/gpu", uuid)
    assert values(snapshot, POD_NAMES)[("",)].values == (1,)


def test_sharing_pods_get_what_they_really_use(tmp_path: Path) -> None:
    """Replicas of a GPU: which UID is which pod is found where each also has a device of its own, or nothing is said."""
    with started(tmp_path) as pod:
        first, second = pod.uuids()
        for pid, number in ((10, 1), (11, 2), (12, 1)):
            pod.process(pid, number)
        pod.node.put(0, 10, 11)
        given: list[Given] = [
            ("a", "one", "x", "nvidia.com/gpu.shared", [f"{first}::0"]),
            ("b", "two", "y", "nvidia.com/gpu.shared", [f"{first}::1"]),
        ]
        with Kubelet(pod.socket, always(given)):
            snapshot = pod.tick()
            # Two pods, two UIDs: no name, the container's id only, and the reason.
            assert names(snapshot) == {("", "", ID[:12])}
            reasons = {(entity.labels[0], entity.labels[3]): entity.labels[4] for entity in snapshot.of(SHARE_REASON)}
            assert "several pods share" in reasons["0", "pods"]
        given.append(("a", "one", "x", "nvidia.com/gpu", [second]))
        pod.node.library.set_processes(1, [SimulatedProcess(pid=12, used_memory_bytes=GIB)])
        with Kubelet(pod.socket, always(given)):
            snapshot = pod.tick()
    assert names(snapshot, 0) == {("a", "one", "x"), ("b", "two", "y")}
    assert names(snapshot, 1) == {("a", "one", "x")}


def test_a_pod_of_nobody_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    """Two UIDs on a GPU that one pod was given: neither is certain."""
    with started(tmp_path) as pod:
        uuid = pod.uuids()[0]
        pod.process(10, 1)
        pod.process(11, 2)
        pod.node.put(0, 10, 11)
        with Kubelet(pod.socket, always([("a", "one", "x", "nvidia.com/gpu", [uuid])])):
            assert names(pod.tick()) == {("", "", ID[:12])}


def test_mig_devices_lead_to_their_pods(tmp_path: Path) -> None:
    """By the MIG device's UUID, new and old, replicas included."""
    with started(tmp_path, "h100x1-mig") as pod:
        pod.node.tick()
        (use,) = pod.node.gpu.uses
        uuids = [readings.label("mig_uuid") for readings, _ in use.mig]
        pod.process(10, 1)
        pod.process(11, 2, "ollama runner")
        pod.node.library.set_processes(
            0,
            [
                SimulatedProcess(pid=pid, used_memory_bytes=GIB, gpu_instance_id=gi, compute_instance_id=0)
                for pid, gi in ((10, 1), (11, 2))
            ],
        )
        given: list[Given] = [
            ("a", "one", "x", "nvidia.com/mig-1g.10gb", [uuids[0]]),
            ("b", "two", "y", "nvidia.com/mig-1g.10gb.shared", [f"{uuids[1]}::0"]),
        ]
        with Kubelet(pod.socket, always(given)):
            snapshot = pod.tick()
    assert names(snapshot) == {("a", "one", "x"), ("b", "two", "y")}


def test_every_form_of_a_devices_name_is_known(tmp_path: Path) -> None:
    """UUIDs, replicas, MIG devices, GKE's names and DRA's."""
    with started(tmp_path, "h100x2") as pod:
        first, second = pod.uuids()
        uses = pod.node.gpu.uses
    forms = {
        first: Place(first),
        f"{second}::7": Place(second),
        "nvidia1": Place(second),
        "nvidia0/vgpu1": Place(first),
        "nvidia1/gi3": Place(second, 3),
        f"MIG-{first}/4/0": Place(first, 4),
        "gpu-1": Place(second),
        "nvidia9": None,
        "GPU-of-another-node": None,
        "": None,
    }
    assert {device: find_place(device, uses) for device in forms} == forms


def test_claims_and_other_resources_are_read(tmp_path: Path) -> None:
    """DRA claims of NVIDIA's driver, and resources that the settings name."""
    given: list[Given] = [
        ("a", "p", "c", "claim/big", ["gpu-0"]),
        ("a", "p", "c", "example.com/gpu", ["GPU-1"]),
        ("a", "p", "c", "rdma/hca", ["mlx"]),
    ]
    found = decode(response(given), frozenset({"example.com/gpu"}))
    assert set(found) == {
        Allocation("a", "p", "c", "claim/big", "gpu-0"),
        Allocation("a", "p", "c", "example.com/gpu", "GPU-1"),
    }


def test_a_thousand_pods_fit(tmp_path: Path) -> None:
    """An answer of many frames is put together."""
    given: list[Given] = [("ns", f"pod-{i}", "c", "nvidia.com/gpu", [f"GPU-{i:0100d}"]) for i in range(1000)]
    with Kubelet(tmp_path / "s", always(given)):
        answer = asyncio.run(call(str(tmp_path / "s"), "/v1.PodResourcesLister/List", b"", 5.0))
    assert len(answer) > 100_000
    assert [one.pod for one in decode(answer)] == [f"pod-{i}" for i in range(1000)]


class Raw:
    """A server on a Unix socket that answers with given bytes, or never."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self._answer = answer
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for connection in self._held:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._held.append(connection)
            if self._answer is not None:
                connection.sendall(self._answer)
                connection.shutdown(socket.SHUT_WR)


def _data(message: bytes, flags: int = 1) -> bytes:
    return own_grpc.frame(own_grpc.DATA, flags, 1, message)


GARBAGE = {
    "ends at once": b"",
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "reset": own_grpc.frame(own_grpc.RST_STREAM, 0, 1, b"\0\0\0\1"),
    "goes away": own_grpc.frame(own_grpc.GOAWAY, 0, 0, b"\0" * 8),
    "no message": own_grpc.frame(own_grpc.HEADERS, 5, 1, b"\x88"),
    "half a message": _data(b"\0\0\0\0\x20abc"),
    "compressed": _data(b"\1\0\0\0\1a"),
    "no protobuf": _data(b"\0\0\0\0\4\xff\xff\xff\xff"),
    "wrong lengths": _data(b"\0\0\0\0\3\x0a\x7fa"),
    "text that is none": _data(b"\0\0\0\0\6\x0a\x04\x0a\x02\xff\xfe"),
    "too long": (own_grpc.frame(own_grpc.DATA, 0, 1, b"x" * 16384)) * (MOST_BYTES // 16384 + 1),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    """Whatever comes, it is one error with a reason."""
    with Raw(tmp_path / "s", answer), pytest.raises(GrpcError, match=r"\w+"):
        decode(asyncio.run(call(str(tmp_path / "s"), "/x", b"", 5.0)))


def test_pings_and_padding_are_part_of_the_protocol(tmp_path: Path) -> None:
    """A server may ask for a sign of life, and fill its frames up."""
    message = b"\0\0\0\0\0"
    frames = own_grpc.frame(own_grpc.SETTINGS, 0, 0) + own_grpc.frame(own_grpc.PING, 0, 0, b"12345678")
    frames += own_grpc.frame(own_grpc.DATA, own_grpc.PADDED, 1, b"\3" + message + b"\0\0\0")
    frames += own_grpc.frame(own_grpc.HEADERS, 5, 1, b"\x88")
    with Raw(tmp_path / "s", frames):
        assert asyncio.run(call(str(tmp_path / "s"), "/x", b"", 5.0)) == b""


@pytest.mark.parametrize("trouble", ["absent", "hangs", "garbage", "unimplemented", "restarts"])
def test_a_kubelet_in_trouble_costs_only_the_names(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but names is as before, the reason is said, it is logged once, and names are back when it is well."""
    monkeypatch.setattr(pods_module, "TIMEOUT_SECS", 0.2)
    with started(tmp_path) as pod:
        uuid = pod.uuids()[0]
        pod.process(10, 1)
        given: list[Given] = [("ml", "trainer-0", "main", "nvidia.com/gpu", [uuid])]
        with Kubelet(pod.socket, always(given)):
            pod.tick()
        pod.node.put(0, 10)
        with capture_logs() as logs:
            if trouble == "absent":
                snapshot = pod.tick(), pod.tick()
            elif trouble in ("hangs", "garbage"):
                with Raw(pod.socket, None if trouble == "hangs" else b"\0" * 100):
                    snapshot = pod.tick(), pod.tick()
                pod.socket.unlink()
            elif trouble == "unimplemented":

                def refuse() -> bytes:
                    raise NotImplementedError

                with Kubelet(pod.socket, refuse):
                    snapshot = pod.tick(), pod.tick()
            else:
                with Kubelet(pod.socket, always(given)):
                    pod.tick()
                snapshot = pod.tick(), pod.tick()
        assert len([line for line in logs if line["event"] == "pods cannot be named"]) == 1
        ((reason, entity),) = [(labels[0], one) for labels, one in values(snapshot[1], POD_NAMES).items()]
        assert entity.values == (0,)
        assert reason.startswith("the kubelet ")
        assert values(snapshot[1], PROCESS_CATEGORY)[("ml_training",)]["count"] == 1
        # A pod keeps its name for life, so one that was known stays known.
        known = ("ml", "trainer-0", "main") if trouble == "restarts" else ("", "", ID[:12])
        assert {name[:2] for name in names(snapshot[1])} == {known[:2]}
        with Kubelet(pod.socket, always(given)):
            assert names(pod.tick()) == {("ml", "trainer-0", "main")}


def test_outside_kubernetes_nothing_is_said_of_pods(tmp_path: Path) -> None:
    """No socket and no pod: neither a series nor a log line."""
    with started(tmp_path) as pod, capture_logs() as logs:
        pod.proc.put(10, "python3 train.py", cgroup=f"0::/docker/{ID}")
        pod.node.put(0, 10)
        snapshot = pod.tick()
    assert snapshot.of(POD_NAMES) == ()
    assert names(snapshot) == {("", "", ID[:12])}
    assert not [line for line in logs if "pod" in line["event"]]


def test_a_pod_without_the_socket_says_that_it_names_none(tmp_path: Path) -> None:
    """In Kubernetes a kubelet is to be expected, even where gpumon sees no process of a pod; once in the log."""
    settings = Kubernetes(pod_resources_socket=str(tmp_path / "none"))
    with capture_logs() as logs:
        pods = Pods(settings, structlog.get_logger(), in_kubernetes=True)
        asyncio.run(pods.ask())
        asyncio.run(pods.ask())
        (entity,) = pods.entities(())
    assert (entity.kind, entity.values) == (POD_NAMES, (0,))
    assert str(tmp_path / "none") in entity.labels[0]
    assert [line["event"] for line in logs] == ["pods cannot be named"]
