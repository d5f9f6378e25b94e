"""docs/api.md: what holds for all paths in prose, and each path from its declaration."""

# ruff: noqa: E501 - prose has one sentence a line, here as in the file it becomes

from __future__ import annotations

from collections.abc import Iterator

from gpumon.catalog.events import CHANGES, ENDED_AFTER_FAULT, EPISODES
from gpumon.store.incident import AFTERWARDS_SECONDS, ENDED_SECONDS
from gpumon.web.api.endpoints import ENDPOINTS, Endpoint
from gpumon.web.api.guard import SHORTEST_TOKEN
from gpumon.web.api.openapi import ANSWERS, openapi
from gpumon.web.api.past import MOST_ANSWER, MOST_COLUMNS, MOST_VALUES
from gpumon.web.api.query import Json, Parameter, parameters
from gpumon.web.api.stream import ALIVE_SECS
from gpumon.web.api.told import MOST_ROWS

# Kinds of events that do not come from two snapshots; a test holds them to what the code tells.
FURTHER = (
    "alert_start",
    "alert_end",
    ENDED_AFTER_FAULT,
    "clock_set",
    "archive_failed",
    "archive_removed",
    "archive_lost",
    "database_salvaged",
    "storage_back",
    "database_corrupt",
)

PROSE = f"""# The API

gpumon serves what it knows as JSON on `http://localhost:8010`, beside the built-in page at `/`.
The address, the port and all limits are in [`[api]`](configuration.md).

```sh
curl -s http://localhost:8010/api/info
curl -s 'http://localhost:8010/api/chart?gpu_id=0&hours=1'
curl -sN http://localhost:8010/api/stream
```

`/api/openapi.json` describes everything below for programs (OpenAPI 3.1).
It is made from the declarations that check the parameters, and the tests hold every answer to it.

## What holds everywhere

- Only `GET` and `HEAD` are taken, and `OPTIONS` of browsers.
- Times are ISO 8601 in UTC to the millisecond, as in `2026-01-31T12:00:00.000Z`; only `/api/chart` has Unix seconds, for plotting.
  Times in a query need a zone: `Z`, or an offset, whose `+` is written `%2B`.
- A reading that is not known is left out, and never 0.
  The readings' names are the columns in [metrics.md](metrics.md).
- What is wrong with a request is said in one sentence, as in `{{"error": "hours is \\"x\\": allowed is a number from 0.01 to 100000"}}`:

| status | means |
|---|---|
| 400 | a parameter is wrong: which, and what is allowed |
| 401 | the token is missing or wrong |
| 403 | asked by a name that is not this gpumon's, or for the page of another site |
| 404, 405 | there is no such path, or no such method on it |
| 503 | not now: there are no readings yet, nothing is kept, the history cannot be read, or too many are connected |

- With `storage.enabled = false` every path about the past answers 503 and says so; `storage` in `/api/info` tells it beforehand.
- Answers carry an `ETag`: who sends it back as `If-None-Match` gets 304 while nothing changed.
- Answers are compressed for who accepts gzip, the stream as well.

## Limits

Nothing a client sends makes a question unbounded.

- A question may span `api.max_range_days` (92).
- `/api/historical` and `/api/chart` take up to {MOST_COLUMNS} columns, and up to {MOST_VALUES} points times columns; an answer has at most {MOST_ANSWER} values.
- Lists have up to {MOST_ROWS} rows; `next` in an answer is what to send as `before` for those that follow.
- `api.max_connections` (192) and `api.max_streams` (128) at a time.

## Who may ask

The API listens on loopback unless `api.address` says otherwise.
It has no TLS of its own: before a network that is not trusted, put a proxy that has.

**A token.** With `api.token` or `api.token_file` set, every path below `/api/` needs `Authorization: Bearer <token>`.
It has {SHORTEST_TOKEN} characters or more, as from `openssl rand -hex 24`, and is compared in constant time.
The page's own files need none, because there is nothing secret in them; the page asks for the token when it gets a 401.
A browser's `EventSource` cannot send a header, so a page reads the stream by `fetch` instead, which can:

```js
const answer = await fetch("/api/stream", {{headers: {{Authorization: `Bearer ${{token}}`}}}});
const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
// events end with an empty line; of each, the line that begins with "data: " is a snapshot
```

A token in the URL would end up in logs and histories, and a cookie would be sent along by pages of other sites; neither is accepted.

**Names.** A request must be addressed to an IP address, `localhost`, this machine's name, or one of `api.allowed_hosts`.
Else a page from elsewhere whose name resolves to this machine (DNS rebinding) could read what it has no right to.
Behind a Service, an Ingress or another proxy that passes the name on, set `api.allowed_hosts` to that name.

**Other sites.** A browser's request for a page of another origin is refused, unless `api.allowed_origins` lists the origin, as in `https://grafana.example.org`.
Those get the CORS headers, and may send the token.

## The stream

`/api/stream` sends server-sent events called `snapshot`.
The data is what `/api/realtime` gives, the id its `sequence`, and the first comes at once.
It is rendered once for all readers.
A reader that is slow gets the newest snapshot and misses those before it.
When sampling stops, one more event says so by `stale`.
A comment comes every {ALIVE_SECS:.0f} s when nothing else does.
A proxy in between must not buffer; nginx is told so by a header.

## Why a job died

`/api/events` tells a fault so that someone who comes an hour later understands it:

- `message`: what happened, what the GPU did before, and who was on it, as in
  `XID 79 on GPU 3: GPU has fallen off the bus; 2 s before 97 % busy, 71.2 GB of memory in use, 64 °C, 655 W; on it python (pid 4711, pod ml/train-0)`;
- `advice`: what to do about it; for XIDs from what NVIDIA publishes about them;
- `detail`: the same as numbers: `meaning`, `readings_before` by column and how old they were, `processes` with pod, container and job.
  A process that had left up to {ENDED_SECONDS:.0f} s before is among them, with `ended_seconds_before`, because XIDs are told some seconds late.

A process that ends within {AFTERWARDS_SECONDS:.0f} s after a fault of its GPU is an event of its own, `{ENDED_AFTER_FAULT}`, that names both.
That the one is why of the other is likely, not certain.
"""


def manual() -> str:
    """Give docs/api.md without its first line."""
    schemas: Json = openapi(token=False)["components"]["schemas"]
    named = {name: schema for name, schema in schemas.items() if not name.startswith("entity_") and name != "error"}
    lines = [PROSE, *_events(), "## Paths", "", *(line for endpoint in ENDPOINTS for line in _endpoint(endpoint))]
    lines += ["## Shapes", "", "A `?` marks what is left out where it is not known.", ""]
    for name, schema in named.items():
        lines += [f"`{name}`:", "", "```", shape(schema), "```", ""]
    return "\n".join(lines)


def _events() -> Iterator[str]:
    """Give the kinds of events that readings tell, and name the others."""
    yield from ("| kind | message begins with | advice |", "|---|---|---|")
    for change in CHANGES:
        yield f"| `{change.event}` | {change.message} | {change.advice or ('by the code' if change.explain else '')} |"
    for episode in EPISODES:
        kinds = f"`{episode.event}_start`, `{episode.event}_end`"
        yield f"| {kinds} | {episode.message} | {episode.advice} |"
    yield from ("", "Further kinds: " + ", ".join(f"`{kind}`" for kind in FURTHER) + ".", "")


def _endpoint(endpoint: Endpoint) -> Iterator[str]:
    yield from (f"### {endpoint.path}", "", f"{endpoint.summary}.", *endpoint.help.replace(". ", ".\n").split("\n"), "")
    declared = parameters(endpoint.query)
    if declared:
        yield from ("| parameter | meaning | allowed | default |", "|---|---|---|---|")
        yield from (_parameter(each) for each in declared)
        yield ""
    if endpoint.path in ANSWERS:
        yield from ("```", shape(ANSWERS[endpoint.path]), "```", "")


def _parameter(parameter: Parameter) -> str:
    default = "" if parameter.default is None else f"`{parameter.default}`"
    allowed = parameter.form.allowed.replace("|", "\\|")
    return f"| `{parameter.name}` | {parameter.help} | {allowed} | {default} |"


def shape(schema: Json, indent: str = "") -> str:
    """Write a schema as short as a reader can take it in."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{shape(schema['items'], indent)}, …]"
    if kind != "object":
        return " or ".join(kind) if isinstance(kind, list) else "time" if schema.get("format") == "date-time" else kind
    required, inner = schema.get("required", ()), indent + "  "
    lines = [
        f"{inner}{name}{'' if name in required else '?'}: {shape(each, inner)}"
        for name, each in schema.get("properties", {}).items()
    ]
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        lines.append(f"{inner}<name>?: {shape(others, inner)}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}" if lines else "{…}"
