"""Who may ask: by token, by name, from which site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.web.api.test_server import asked, told

from gpumon.settings import Api, SettingsError
from gpumon.web.api.guard import token

TOKEN = "0123456789abcdef-secret"
SITE = "https://grafana.example.org"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer t\xf6ken", 401),
        (None, 401),
    ],
)
def test_with_a_token_only_who_has_it_is_answered(given: str | None, status: int) -> None:
    """Every path of the API."""
    headers = {} if given is None else {"Authorization": given}
    for path in ("/api/info", "/api/stream", "/api/openapi.json"):
        answer = asked(path, "HEAD" if status == 200 else "GET", headers, token=TOKEN)
        assert answer.status == status
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "Authorization: Bearer" in told(answer)["error"]


def test_the_page_itself_needs_no_token() -> None:
    """Its files are no secret, and it must be there to ask for one."""
    assert asked("/", token=TOKEN).status == 200


def test_a_token_can_lie_in_a_file(tmp_path: Path) -> None:
    """Its first line, as secrets are mounted."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nrest")
    assert token(Api(token_file=str(file))) == TOKEN


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": "short"}, "api.token cannot be used; allowed are 16 ASCII characters or more"),
        ({"token": "with blanks in it, and long"}, "api.token cannot be used"),
        ({"token_file": "/nonexistent"}, "Cannot read api.token_file /nonexistent: No such file"),
        ({"token": TOKEN, "token_file": "/x"}, "api.token and api.token_file are both set"),
    ],
)
def test_a_token_that_cannot_be_used_stops_the_start(settings: dict[str, str], said: str) -> None:
    """In one sentence; a file that is empty must not mean that no token is needed."""
    with pytest.raises(SettingsError, match=said):
        token(Api(**settings))


def test_an_empty_token_file_stops_the_start(tmp_path: Path) -> None:
    """It must not mean that no token is needed."""
    file = tmp_path / "token"
    file.touch()
    with pytest.raises(SettingsError, match=r"api\.token_file"):
        token(Api(token_file=str(file)))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8010", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:8010", 200),
        ("[::1]:8010", 200),
        ("192.0.2.7", 200),
        ("gpu1.example.org:8010", 200),
        ("gpu1.example.org.", 200),
        ("evil.example.com:8010", 403),
        ("localhost.evil.example.com", 403),
        ("127.0.0.1.evil.example.com", 403),
        ("", 403),
        ("[::1", 403),
        ("a b", 403),
    ],
)
def test_a_name_that_is_not_ours_is_refused(host: str, status: int) -> None:
    """A page from elsewhere whose name was made to resolve to this machine reads nothing (DNS rebinding)."""
    answer = asked("/api/realtime", headers={"Host": host}, allowed_hosts="gpu1.example.org")
    assert answer.status == status
    if status == 403:
        assert "add it to api.allowed_hosts" in told(answer)["error"]
        assert asked("/", headers={"Host": host}).status == 403


def test_any_name_can_be_allowed() -> None:
    """For whoever has a proxy before it that checks names."""
    assert asked("/api/info", headers={"Host": "any.example"}, allowed_hosts="*").status == 200


def test_a_listed_site_may_read_and_another_may_not() -> None:
    """The browser's page of another origin is refused before anything is done for it."""
    listed = asked("/api/info", headers={"Origin": SITE}, allowed_origins=f"{SITE}/ https://other.example")
    assert listed.headers["Access-Control-Allow-Origin"] == SITE
    assert "Origin" in listed.headers["Vary"]
    for origin in ("https://evil.example", "null", "http://grafana.example.org"):
        for settings in ({}, {"allowed_origins": SITE}):
            answer = asked("/api/info", headers={"Origin": origin}, **settings)
            assert answer.status == 403
            assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_own_page_is_no_other_site() -> None:
    """Whatever port it is on."""
    answer = asked("/api/info", headers={"Origin": "http://localhost:8010", "Host": "localhost:8010"})
    assert answer.status == 200


def test_a_preflight_is_answered_for_listed_sites() -> None:
    """With what may be sent; the token is not asked for, because browsers send none then."""
    headers = {"Origin": SITE, "Access-Control-Request-Method": "GET"}
    answer = asked("/api/info", "OPTIONS", headers, allowed_origins=SITE, token=TOKEN)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert asked("/api/info", "OPTIONS", headers).status == 403


def test_an_error_can_be_read_by_a_listed_site() -> None:
    """A page shall be able to show what was wrong, and to ask for a token."""
    settings: dict[str, Any] = {"allowed_origins": SITE, "token": TOKEN}
    for path in ("/api/info", "/api/none"):
        assert asked(path, headers={"Origin": SITE}, **settings).headers["Access-Control-Allow-Origin"] == SITE


def test_images_and_scripts_of_other_sites_are_refused_and_links_are_not() -> None:
    """They name no origin; a browser says where they come from all the same. Following a link is a person's own doing."""
    for site, mode, status in (
        ("cross-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ):
        answer = asked("/api/info", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})
        assert answer.status == status, (site, mode)
