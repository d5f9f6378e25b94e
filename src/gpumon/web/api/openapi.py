"""The OpenAPI document: paths and parameters from the endpoints' declarations, answers from the catalogue's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import get_type_hints

from gpumon import __version__
from gpumon.catalog import GPU_INFO, KINDS, EntityKind
from gpumon.catalog.records import Event, LlmSession, ProcessEvent, Record
from gpumon.catalog.summary import CATEGORIES
from gpumon.web.api.endpoints import ENDPOINTS, Endpoint
from gpumon.web.api.past import GPU_LABEL, PARTS, STORED
from gpumon.web.api.present import FIELDS
from gpumon.web.api.query import Json, Parameter, parameters

STRING: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
INTEGER: Json = {"type": "integer"}
BOOLEAN: Json = {"type": "boolean"}
TIME: Json = {"type": "string", "format": "date-time"}
NUMBER_OR_NULL: Json = {"type": ["number", "null"]}

ABOUT = (
    "What a node's GPUs do now and did before, who uses them, and what happened to them. "
    "Times are ISO 8601 in UTC. A reading that is not known is left out."
)


def openapi(*, token: bool) -> Json:
    """Give the document; `token` says whether requests need one."""
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "gpumon", "version": __version__, "description": ABOUT},
        "paths": {endpoint.path: {"get": _operation(endpoint, token=token)} for endpoint in ENDPOINTS},
        "components": {"schemas": dict(_schemas())},
    }
    if token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _operation(endpoint: Endpoint, *, token: bool) -> Json:
    stream = endpoint.path == "/api/stream"
    media, schema = ("text/event-stream", STRING) if stream else ("application/json", ANSWERS[endpoint.path])
    answers: Json = {
        "200": {"description": endpoint.summary, "content": {media: {"schema": schema}}},
        "400": _refusal("A parameter is wrong; the sentence says which, and what is allowed."),
        "403": _refusal("Asked by a name that is not this gpumon's, or for the page of another site."),
    }
    if not stream:
        answers["304"] = {"description": "The client has it already, by its If-None-Match."}
    if token:
        answers["401"] = _refusal("The token is missing or wrong.")
    if endpoint.unavailable:
        answers["503"] = _refusal(f"Not now: {endpoint.unavailable}.")
    return {
        "operationId": endpoint.path.rpartition("/")[2].removesuffix(".json").replace("-", "_"),
        "summary": endpoint.summary,
        "description": endpoint.help,
        "parameters": [_parameter(each) for each in parameters(endpoint.query)],
        "responses": answers,
    }


def _parameter(parameter: Parameter) -> Json:
    schema = parameter.form.schema()
    if isinstance(parameter.default, str | int | float):
        schema |= {"default": parameter.default}
    found: Json = {"name": parameter.name, "in": "query", "description": parameter.help, "schema": schema}
    return found if parameter.example is None else found | {"example": parameter.example}


def _refusal(description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref("error")}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None, others: Json | bool = False) -> Json:
    """Give the schema of an object of these properties, and no others unless `others` describes them."""
    optional = optional or {}
    properties = required | optional
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": others}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


# Answers, by path.

_SNAPSHOT = _object(
    {
        "time": TIME,
        "sequence": INTEGER,
        "driver": STRING,
        "entities": {
            "type": "object",
            "properties": {kind.name: _list(_ref(f"entity_{kind.name}")) for kind in KINDS},
            "additionalProperties": False,
        },
        "age_seconds": NUMBER,
        "stale": BOOLEAN,
    }
)
_INFO = _object(
    {
        "version": STRING,
        "host": STRING,
        "started": TIME,
        "time": TIME,
        "poll_interval_secs": NUMBER,
        "driver": STRING,
        "storage": BOOLEAN,
        "gpus": _list(
            _object(
                {"gpu_id": INTEGER, "gpu_uuid": STRING, "gpu_name": STRING, "up": BOOLEAN},
                {"reason": STRING} | {label.name: STRING for label in GPU_INFO.labels[3:]},
            )
        ),
    }
)
_HISTORY = _object(
    {
        "kind": {"type": "string", "enum": list(STORED)},
        "start": TIME,
        "end": TIME,
        "step_seconds": INTEGER,
        "series": _list(
            _object(
                {
                    "labels": {"type": "object", "additionalProperties": {"type": ["string", "integer", "null"]}},
                    "points": _list(_object({"time": TIME}, others=_object(dict.fromkeys(PARTS, NUMBER)))),
                }
            )
        ),
    }
)
_CHART = _object(
    {
        GPU_LABEL: INTEGER,
        "step_seconds": INTEGER,
        "times": _list(INTEGER),
        "series": {
            "type": "object",
            "additionalProperties": _object(dict.fromkeys(PARTS, _list(NUMBER_OR_NULL))),
        },
    }
)
_PROCESS = _object(
    {"gpu_uuid": STRING, "pid": INTEGER, "category": STRING},
    {"gpu_id": INTEGER} | {field.name: {"type": field.type, "description": field.help} for field in FIELDS},
)
_WEEK = _object(
    {"week_start": TIME, "week_end": TIME, "subject": STRING, "name": STRING},
    {"gpu_id": INTEGER} | {f"hours_{category}": NUMBER for category in CATEGORIES},
    others=NUMBER,
)

ANSWERS: dict[str, Json] = {
    "/api/info": _INFO,
    "/api/realtime": _ref("snapshot"),
    "/api/historical": _HISTORY,
    "/api/chart": _CHART,
    "/api/processes": _object({"processes": _list(_ref("process"))}, {"time": TIME}),
    "/api/events": _object({"events": _list(_ref("event"))}, {"next": STRING}),
    "/api/process-events": _object({"events": _list(_ref("process_event"))}, {"next": STRING}),
    "/api/llm-sessions": _object({"sessions": _list(_ref("llm_session"))}, {"next": STRING}),
    "/api/summaries": _object({"summaries": _list(_ref("summary"))}),
    "/api/openapi.json": {"type": "object"},
}


def _schemas() -> Iterable[tuple[str, Json]]:
    """Give the schemas that have a name."""
    yield "error", _object({"error": STRING})
    yield "snapshot", _SNAPSHOT
    yield "process", _PROCESS
    detail: Json = {"type": "object", "description": "Numbers and names of what happened."}
    advice: Json = STRING | {"description": "What to do about it."}
    yield "event", _record(Event, {"detail": detail, "advice": advice})
    yield "process_event", _record(ProcessEvent)
    yield "llm_session", _record(LlmSession)
    yield "summary", _WEEK
    yield "distribution", _object({"count": NUMBER, "sum": NUMBER, "bounds": _list(NUMBER), "counts": _list(NUMBER)})
    for kind in KINDS:
        yield f"entity_{kind.name}", _entity(kind)


def _entity(kind: EntityKind) -> Json:
    labels = {label.name: STRING | {"description": label.help} for label in kind.labels}
    readings: Json = {}
    for column in kind.columns:
        readings[column.name] = NUMBER | {"description": f"{column.reading.help} ({kind.series(column)})"}
    for reading in kind.histograms:
        readings[reading.name] = _ref("distribution") | {"description": f"{reading.help} ({kind.metric(reading)})"}
    return _object(labels, readings) | {"description": kind.help}


def _record(record: type[Record], more: Json | None = None) -> Json:
    """Give the schema of a record: what may be None is left out where it is."""
    hints = get_type_hints(record)
    types = {int: INTEGER, float: NUMBER, str: STRING}
    required: Json = {"id": INTEGER, "time": TIME}
    optional: Json = {}
    for field in fields(record):
        if field.name == record.time:
            continue
        plain = getattr(hints[field.name], "__args__", (hints[field.name],))
        schema = next(types[kind] for kind in types if kind in plain)
        (optional if type(None) in plain else required)[field.name] = schema
    return _object(required, optional | (more or {}))
