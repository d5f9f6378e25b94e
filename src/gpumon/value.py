"""One option's value on its way in: taken from a text, checked against what is allowed, shown in a sentence."""

from __future__ import annotations

from gpumon.settings import Option, Value, named_servers

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

# Longer values are cut in a sentence.
SHOWN_CHARACTERS = 60


def from_text(option: Option, text: str) -> Value:
    """Give a text from the environment as the option's type where it can be one, else as it is."""
    word = text.strip().lower()
    if isinstance(option.default, bool):
        return word in TRUE if word in TRUE + FALSE else text
    if isinstance(option.default, str):
        return text
    try:
        return int(word) if isinstance(option.default, int) else float(word)
    except ValueError:
        return text


def accept(option: Option, value: object) -> Value | None:
    """Give `value` as the option's type; None where it is not allowed."""
    if isinstance(option.default, bool) or isinstance(value, bool):
        return value if isinstance(option.default, bool) and isinstance(value, bool) else None
    if option.form == "tables" and isinstance(value, list):
        import json

        return json.dumps(value, default=str)
    if isinstance(option.default, str):
        return value if isinstance(value, str) and _is_allowed(option, value) else None
    whole = isinstance(option.default, int)
    if not isinstance(value, int if whole else (int, float)):
        return None
    assert option.minimum is not None
    assert option.maximum is not None
    if not option.minimum <= value <= option.maximum:
        return None
    return value if whole else float(value)


def _is_allowed(option: Option, text: str) -> bool:
    if option.choices:
        return text in option.choices
    if not text:
        return not option.default
    if option.form == "url":
        return _is_url(text)
    if option.form == "urls":
        return all(_is_url(url) for url in text.split()) and text.isprintable()
    if option.form == "servers":
        return all(_is_url(url) for _, url in named_servers(text)) and text.isprintable()
    if option.form == "address":
        return _is_address(text)
    if option.form == "listen":
        return _is_listen(text)
    return text.isprintable()


def _is_url(text: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and text.isprintable() and " " not in text


def _is_listen(text: str) -> bool:
    address, _, port = text.rpartition(":")
    bare = address.removeprefix("[").removesuffix("]")
    whole = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535
    return whole and _is_address(bare) and (":" in bare) == address.startswith("[")


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        return text == "localhost" or bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def show(value: object) -> str:
    """Give a value as it is written in TOML, on one line and not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"  # Python refuses to write very long ones
    return f'"{plain(value)}"' if isinstance(value, str) else str(value)


def plain(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Give a text from outside without line ends and control characters, and cut."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
