"""The OpenAPI document of the API."""

from __future__ import annotations


def openapi(*, token: bool) -> dict[str, object]:
    """Give the document."""
    return {"openapi": "3.1.0", "token": token}
