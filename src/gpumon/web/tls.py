"""TLS of a listening port, from the words of Go's crypto/tls, in which web-config files speak."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
# What Go calls secure of TLS 1.2, by OpenSSL's names.
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
# May be named, but not chosen among: neither Go nor Python can restrict the suites of TLS 1.3.
CIPHERS_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What a web-config file says of TLS, with the contents of the files it names, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_auth: str = "NoClientCert"
    client_ca: bytes | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    ciphers: tuple[str, ...] = ()
    prefer_server_ciphers: bool = True
    curves: tuple[str, ...] = ()


def server_context(tls: Tls) -> ssl.SSLContext:
    """Make the context of a server; ValueError says what is wrong, and begins with the key of the web-config file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = VERSIONS[tls.min_version], VERSIONS[tls.max_version]
    if context.minimum_version > context.maximum_version:
        raise ValueError(f"min_version is {tls.min_version}, above max_version, which is {tls.max_version}")
    _load_certificate(context, tls)
    _load_client_ca(context, tls)
    if tls.ciphers:
        _choose_ciphers(context, tls)
    if not tls.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if len(tls.curves) > 1:
        raise ValueError("curve_preferences has several curves, and Python can only be given one: name one, or none")
    for curve in tls.curves:
        context.set_ecdh_curve(CURVES[curve])
    return context


def _load_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    def passphrase() -> str:
        raise ValueError("key is encrypted: give one that is not")  # else Python would ask at the terminal

    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls.certificate, "cert")  # for its error, which names the culprit
    with _as_file(tls.certificate) as certificate, _as_file(tls.key) as key:
        try:
            context.load_cert_chain(certificate, key, password=passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ValueError("cert and key do not belong together") from error
            raise ValueError("key holds no private key in PEM that OpenSSL can load") from error


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give a path to `content`, for a function that takes only paths; nothing of it reaches a disk."""
    descriptor = os.memfd_create("gpumon-tls")
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"


def _load_client_ca(context: ssl.SSLContext, tls: Tls) -> None:
    context.verify_mode = CLIENT_AUTH[tls.client_auth]
    if context.verify_mode is ssl.CERT_NONE:
        if tls.client_ca is not None:
            raise ValueError("client_ca is set, but client_auth_type lets every client in without a certificate")
        return
    # As in Go, every certificate of the file is trusted by itself, be it a root, an intermediate or a client's own.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls.client_ca is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    _trust(context, tls.client_ca, "client_ca")


def _trust(context: ssl.SSLContext, certificates: bytes, key: str) -> None:
    try:
        context.load_verify_locations(cadata=certificates.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{key} holds no certificate in PEM that OpenSSL can load") from error


def _choose_ciphers(context: ssl.SSLContext, tls: Tls) -> None:
    chosen = [CIPHERS[name] for name in tls.ciphers if name in CIPHERS]
    if not chosen:
        # Only suites of TLS 1.3 are named: then older versions have none to use.
        if tls.max_version != "TLS13":
            raise ValueError("cipher_suites has none that max_version could use")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return
    context.set_ciphers(":".join(chosen))
    missing = set(chosen) - {cipher["name"] for cipher in context.get_ciphers()}
    if missing:
        raise ValueError(f"cipher_suites has {', '.join(sorted(missing))}, which this machine's OpenSSL does not offer")


def names_in(certificate: Mapping[str, Any]) -> set[str]:
    """Give a certificate's subject alternative names: DNS, e-mail, URI, and addresses in their short form."""
    names = set()
    for kind, value in certificate.get("subjectAltName", ()):
        names.add(short_address(value) if kind == "IP Address" else value)
    return names


def short_address(value: str) -> str:
    """Write an IP address in its short form; what is none stays as it is."""
    try:
        return str(ip_address(value.strip()))
    except ValueError:
        return value
