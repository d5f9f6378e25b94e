"""What is known of the proxy itself; what it measures is in the kinds of `catalog.llm`."""

from __future__ import annotations

from gpumon.catalog.model import EntityKind, Label, Reading

LLM_PROXY = EntityKind(
    "llm_proxy",
    "The proxy before a model server. Present while it listens.",
    prefix="llm_proxy",
    labels=(Label("server", "Address of the model server, as in 127.0.0.1:11434.", otel="server.address"),),
    readings=(
        Reading(name="open_connections", help="Connections of clients that are open."),
        Reading(name="connections_total", help="Connections that clients opened since gpumon started."),
        Reading(name="refused_total", help="Connections beyond `proxy.max_connections`, which were answered with 503."),
        Reading(name="unreachable_total", help="Connections answered with 502 because the model server took none."),
        Reading(name="requests_running", help="Requests to a model that are under way."),
        Reading(name="requests_total", help="Requests to a model that ended, and were measured."),
        Reading(
            name="unreadable_total",
            help="Requests, replies or connections that passed unmeasured, or less so, because they could not be read.",
        ),
    ),
)
