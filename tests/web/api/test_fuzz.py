"""The API keeps what its own document promises, whatever is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from tests.web.api.serving import history, serving_apart

from gpumon.web.api.endpoints import ENDPOINTS
from gpumon.web.api.openapi import openapi

load_all_checks()
# "positive_data_acceptance" is not among them: that a start lies before its end cannot be said in the document.
CHECKED = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    )
]
SCHEMA = schemathesis.openapi.from_dict(openapi(token=False))
PATHS = [endpoint.path for endpoint in ENDPOINTS if endpoint.path != "/api/stream"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a history."""
    with serving_apart(history(tmp_path_factory.mktemp("data"))) as found:
        yield found


def fuzz(url: str, path: str, examples: int) -> None:
    """Ask for a path in many ways, half of them against the document, and hold the answers to it."""
    operation = SCHEMA[path]["GET"]
    # Nothing can be wrong with a query that takes no parameters, for all that schemathesis makes up.
    modes = list(GenerationMode) if operation.query else [GenerationMode.POSITIVE]
    for mode in modes:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=url, checks=CHECKED)

        ask()


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_what_the_document_says(url: str, path: str) -> None:
    """Status, form and type, for what is allowed and for what is not."""
    fuzz(url, path, 4)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_answers_are_what_the_document_says_for_long(url: str, path: str) -> None:
    """The same with many more questions."""
    fuzz(url, path, 200)
