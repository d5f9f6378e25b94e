"""Labels of pods come from the API server, of this node only, and only where they are wanted."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from gpumon.catalog import POD_LABEL, WORKLOAD
from gpumon.load import load
from gpumon.process import podlabels
from gpumon.process.podlabels import ApiError, ApiServer, PodFacts
from gpumon.process.pods import Pods
from gpumon.settings import Kubernetes, Processes, SettingsError
from tests.process.node import ProcessNode, WrittenProc

UID, OTHER = "3e61b8b5-4b3c-4d7e-9f0a-1c2d3e4f5a6b", "00000000-4b3c-4d7e-9f0a-1c2d3e4f5a6b"
STATIC = "0123456789abcdef" * 2


def pod(uid: str, name: str, static: str = "", **labels: str) -> dict[str, Any]:
    """Give a pod's metadata as the server sends it."""
    metadata: dict[str, Any] = {"uid": uid, "name": name, "namespace": "ml", "labels": labels}
    if static:
        metadata["annotations"] = {"kubernetes.io/config.hash": static}
    return {"metadata": metadata}


class Server:
    """An API server over TLS that answers as the test wants, and keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.account = folder / "account"
        self.account.mkdir()
        self.authority.cert_pem.write_to_path(str(self.account / "ca.crt"))
        (self.account / "token").write_text("abc\n")
        self.items: list[dict[str, Any]] = []
        self.body: bytes | None = None
        self.status = 200
        self.asked: list[web.Request] = []
        self.free = asyncio.Event()  # lets an answer go that hangs

    async def use(self, work: Callable[[ApiServer], Coroutine[Any, Any, Any]]) -> Any:
        """Do something with the server running."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        port = runner.addresses[0][1]
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port)}
        api = ApiServer("node-7", frozenset({"app", "team"}), environ, self.account)
        try:
            return await work(api)
        finally:
            await api.close()
            self.free.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(body=self.body or json.dumps({"items": self.items}).encode(), status=self.status)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """Give a server that is not started."""
    return Server(tmp_path)


def test_pods_of_this_node_are_asked_for_and_no_more_than_metadata(server: Server) -> None:
    """The question names the node, and only wanted labels are kept; a static pod is known by its manifest's hash too."""
    server.items = [pod(UID, "a", app="x", team="y", secret="z"), pod(OTHER, "b", STATIC)]
    found = asyncio.run(server.use(lambda api: api.pods()))
    assert found[UID] == PodFacts("ml", "a", (("app", "x"), ("team", "y")))
    assert found[STATIC] == found[OTHER] == PodFacts("ml", "b", ())
    (request,) = server.asked
    assert request.query["fieldSelector"] == "spec.nodeName=node-7"
    assert request.headers["Authorization"] == "Bearer abc"
    assert "PartialObjectMetadataList" in request.headers["Accept"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, None, "needs the right to list pods"),
        (500, None, "answered 500"),
        (200, b"<html>", "answered garbage"),
        (200, b'{"items": [{}]}', "answered garbage"),
        (200, b"[]", "answered garbage"),
    ],
)
def test_a_server_in_trouble_is_one_reason(server: Server, status: int, body: bytes | None, said: str) -> None:
    """Refused, broken or not itself."""
    server.status, server.body = status, body
    with pytest.raises(ApiError, match=said):
        asyncio.run(server.use(lambda api: api.pods()))


def test_outside_kubernetes_and_without_an_account_it_says_so(tmp_path: Path) -> None:
    """Nothing is asked of anybody."""
    for environ, said in (
        ({}, "does not run in Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, "no service account"),
    ):
        with pytest.raises(ApiError, match=said):
            asyncio.run(ApiServer("n", frozenset(), environ, tmp_path).pods())


def test_a_server_that_is_not_trusted_gets_no_token(server: Server) -> None:
    """One with another certificate is not asked."""
    trustme.CA().cert_pem.write_to_path(str(server.account / "ca.crt"))
    with pytest.raises(ApiError, match="cannot be reached"):
        asyncio.run(server.use(lambda api: api.pods()))
    assert server.asked == []


def test_a_server_that_hangs_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out."""
    monkeypatch.setattr(podlabels, "TIMEOUT_SECS", 0.2)

    async def never(request: web.Request) -> web.Response:
        await server.free.wait()
        return web.Response()

    server._answer = never  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="does not answer within"):
        asyncio.run(server.use(lambda api: api.pods()))


def test_labels_are_told_and_sharing_pods_are_told_apart(server: Server, tmp_path: Path) -> None:
    """By UID a process leads to its pod whatever the kubelet says; a server that fails costs the labels and is logged once."""
    root = tmp_path / "proc"
    root.mkdir()
    proc = WrittenProc(root)
    for pid, uid in ((10, UID), (11, OTHER)):
        proc.put(pid, "python3 train.py", cgroup=f"0::/kubepods/pod{uid}/{'a1' * 32}")
    server.items = [pod(UID, "a", app="x"), pod(OTHER, "b", team="y"), pod("1", "no-gpu", app="z")]

    async def ask(api: ApiServer) -> None:
        pods._api = api
        await pods.ask()

    pods = Pods(Kubernetes(pod_resources_socket=str(tmp_path / "none")), structlog.get_logger())
    with ProcessNode(settings=Processes(proc_root=str(root)), places=[pods]) as node:
        node.put(0, 10, 11)
        node.run(server.use(ask))
        snapshot = node.tick()
        assert {entity.label("pod") for entity in snapshot.of(WORKLOAD) if entity["processes"]} == {"a", "b"}
        assert {entity.labels for entity in snapshot.of(POD_LABEL)} == {
            ("ml", "a", "app", "x"),
            ("ml", "b", "team", "y"),
        }
        server.status = 500
        with capture_logs() as logs:
            for _ in range(2):
                node.run(server.use(ask))
                snapshot = node.tick()
        assert snapshot.of(POD_LABEL) == ()
        assert [line["reason"] for line in logs if line["event"].startswith("labels")] == [
            "the API server answered 500"
        ]


def test_labels_need_the_nodes_name() -> None:
    """Without it the whole cluster would be asked for."""
    with pytest.raises(SettingsError, match="for one node only"):
        load(None, {"HOME": "/nowhere", "GPUMON_KUBERNETES_POD_LABELS": "app"})
