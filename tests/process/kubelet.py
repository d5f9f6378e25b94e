"""A kubelet for tests: a real gRPC server on a Unix socket that answers PodResources as the test wants."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

grpc = pytest.importorskip("grpc", reason="NOT CHECKED: grpcio is not installed")
protoc = pytest.importorskip("grpc_tools.protoc", reason="NOT CHECKED: grpcio-tools is not installed")

PROTO = Path(__file__).parents[2] / "src/gpumon/process/podresources.proto"

# (namespace, pod, container, resource, devices); a resource that begins with "claim/" is a DRA claim.
Given = tuple[str, str, str, str, Sequence[str]]


def messages() -> Any:
    """Give the messages of our own .proto, compiled by protoc."""
    if "podresources_pb2" not in sys.modules:
        with tempfile.TemporaryDirectory() as folder:
            code = protoc.main(["", f"-I{PROTO.parent}", f"--python_out={folder}", str(PROTO)])
            assert code == 0
            sys.path.insert(0, folder)
            __import__("podresources_pb2")
            sys.path.remove(folder)
    return sys.modules["podresources_pb2"]


def response(given: Sequence[Given]) -> bytes:
    """Give a ListPodResourcesResponse, made by protobuf itself."""
    pb = messages()
    pods: dict[tuple[str, str], Any] = {}
    answer = pb.ListPodResourcesResponse()
    for namespace, name, container, resource, devices in given:
        if (namespace, name) not in pods:
            pods[namespace, name] = answer.pod_resources.add(name=name, namespace=namespace)
        pod = pods[namespace, name]
        of = next((one for one in pod.containers if one.name == container), None) or pod.containers.add(name=container)
        if resource.startswith("claim/"):
            claim = of.dynamic_resources.add(claim_name=resource.removeprefix("claim/"), claim_namespace=namespace)
            for device in devices:
                claim.claim_resources.add(driver_name="gpu.nvidia.com", pool_name="node", device_name=device)
        else:
            of.devices.add(resource_name=resource, device_ids=devices)
    made: bytes = answer.SerializeToString()
    return made


class Kubelet:
    """Serves at `path` while in the block. `answer` is called for each question; what it raises is the answer's status."""

    def __init__(self, path: Path, answer: Callable[[], bytes]) -> None:
        self.path = path
        self.answer = answer
        self.asked = 0
        self.free = threading.Event()  # set to let a hanging answer go

    def __enter__(self) -> Self:
        pool = ThreadPoolExecutor(2)
        self._pool = pool
        self._server = grpc.server(pool)

        def answer(_request: bytes, context: Any) -> bytes:
            self.asked += 1
            try:
                return self.answer()
            except NotImplementedError:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
                raise

        method = grpc.unary_unary_rpc_method_handler(answer)
        handler = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": method})
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free.set()
        self._server.stop(None).wait(5)
        self._pool.shutdown()
        self.path.unlink(missing_ok=True)


def always(given: Sequence[Given] | Mapping[str, str]) -> Callable[[], bytes]:
    """Give an answer that is always the same."""
    made = response(given)  # type: ignore[arg-type]
    return lambda: made
