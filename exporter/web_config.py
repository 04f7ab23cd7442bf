"""The web configuration, in the format of Prometheus' exporter-toolkit, and the TLS that it asks for.

The format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. What cannot be done
here is refused, not passed over: who secures a server must not believe what is not so. No value of a fault is shown
that may be a secret.
"""

import ssl
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from exporter.basic_auth import DEAREST, is_hash
from exporter.document import Document, Fault, Location, shown
from exporter.settings import (
    ConfigError,
    File,
    Section,
    Text,
    Truth,
    in_our_words,
    must_be,
    read,
    refuse,
    validated,
)
from exporter.tls import TlsContext

CIPHERS: Final = {
    f"TLS_{exchange}_WITH_{theirs}": f"{exchange.replace('_', '-')}-{ours}"
    for exchange in ("ECDHE_ECDSA", "ECDHE_RSA")
    for theirs, ours in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
"""The cipher suites of TLS 1.2 that Go finds secure: its name for each, and OpenSSL's."""
CIPHERS_OF_TLS13: Final = frozenset(
    {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
)
"""These are always on, in Go as here."""
CURVES: Final = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Those that may be set, and to what; no value: to anything."""
PROBES: Final = ("/-/healthy", "/-/ready")


# --- Types of settings


def _one_of(*values: str) -> BeforeValidator:
    def check(given: object) -> object:
        if given not in values:
            raise ValueError(f"must be {', '.join(values[:-1])} or {values[-1]}, not {shown(given)}")
        return given

    return BeforeValidator(check)


def _client_auth_type(given: object) -> object:
    """Refuse what OpenSSL, as Python shows it, does not do: whoever is asked for a certificate has it verified."""
    if given in ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(
            f"{given} is not supported, as it lets any certificate in; use RequireAndVerifyClientCert"
        )
    return given


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("must hold a name")
    return names


def _version(given: object) -> object:
    if given in ("TLS10", "TLS11"):
        raise ValueError(f"{given} is not supported: OpenSSL refuses what RFC 8996 deprecates")
    return given


def _password_hash(given: object) -> object:
    if not isinstance(given, str) or not is_hash(given):
        raise ValueError(
            f"must be a bcrypt hash of a cost up to {DEAREST}, as `htpasswd -nBC 10 NAME` makes it"
        )
    return given


def _http2(wanted: bool) -> bool:
    if wanted:
        raise ValueError("true is not supported: HTTP/2 is not spoken here")
    return wanted


ClientAuth = Annotated[
    str,
    _one_of("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"),
    BeforeValidator(_client_auth_type),
]
Version = Annotated[str, _one_of(*VERSIONS), BeforeValidator(_version)]
Cipher = Annotated[str, _one_of(*CIPHERS, *sorted(CIPHERS_OF_TLS13))]
HeaderName = Annotated[str, _one_of(*HEADERS)]
HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$"), must_be("ASCII text")]
UserName = Annotated[str, Field(pattern=r"^[^:]+$"), must_be("a name without a colon")]
PasswordHash = Annotated[str, BeforeValidator(_password_hash)]


# --- The model


class TlsServerConfig(Section):
    """How to speak TLS."""

    cert_file: File
    """PEM, with the chain behind it."""
    key_file: File
    """PEM, without a password."""
    client_auth_type: ClientAuth = "NoClientCert"
    client_ca_file: File | None = None
    """Who vouches for clients."""
    client_allowed_sans: Annotated[tuple[Text, ...], AfterValidator(_some)] | None = None
    """A client's certificate must bear one of these names; None: any."""
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Cipher, ...] = ()
    """Of TLS 1.2, by their names in Go; empty: OpenSSL's choice."""
    prefer_server_cipher_suites: Truth = True
    curve_preferences: tuple[Annotated[str, _one_of(*CURVES)], ...] = ()
    """By their names in Go; empty: OpenSSL's choice."""


class HttpServerConfig(Section):
    """What to do about HTTP."""

    http2: Annotated[Truth, AfterValidator(_http2)] = False
    headers: Mapping[HeaderName, HeaderValue | None] = {}
    """Set on every answer that does not set the header by itself; those that are empty are not."""


class WebConfig(Section):
    """The whole web configuration."""

    tls_server_config: TlsServerConfig | None = None
    """None: plain HTTP."""
    http_server_config: HttpServerConfig = HttpServerConfig()
    basic_auth_users: Mapping[UserName, PasswordHash] = {}
    """Names and bcrypt hashes; empty: no password is asked for."""
    auth_excluded_paths: tuple[Annotated[str, _one_of(*PROBES)], ...] = ()
    """Where neither password nor client certificate is asked for."""

    def files(self) -> tuple[Path, ...]:
        """Return the files that it names."""
        tls = self.tls_server_config
        named = (tls.cert_file, tls.key_file, tls.client_ca_file) if tls is not None else ()
        return tuple(file for file in named if file is not None)


SECTIONS: Final[Mapping[Location, type[Section]]] = {
    (): WebConfig,
    ("tls_server_config",): TlsServerConfig,
    ("http_server_config",): HttpServerConfig,
}
UNSUPPORTED: Final[Mapping[Location, str | None]] = {
    ("rate_limit",): None,
    ("tls_server_config", "cert"): "cert_file",
    ("tls_server_config", "key"): "key_file",
    ("tls_server_config", "client_ca"): "client_ca_file",
}
"""Settings of the exporter-toolkit that are none of ours, and what to use instead."""


# --- From the file to what it asks for


def load(path: Path) -> tuple[WebConfig, ssl.SSLContext | None]:
    """Read a web configuration and the files it names; an empty one asks for nothing, as in the exporter-toolkit.

    Raises ConfigError with all that is wrong, each with file, line and path.
    """
    try:
        document = read(path, may_be_empty=True)
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}",)) from None
    found = [*_unsupported(document), *_empty(document)]
    config = validated(document, path, WebConfig, partial(in_our_words, sections=SECTIONS), found)
    faults = list(_contradictions(config))
    context = None
    if config.tls_server_config is not None and not faults:
        try:
            context = _context(config.tls_server_config, config.auth_excluded_paths)
        except _UnusableError as error:
            faults.append((("tls_server_config", error.setting), error.what))
    refuse(path, (Fault(document.line(where), where, what) for where, what in faults))
    return config, context


def _unsupported(document: Document) -> Iterator[Fault]:
    """Find settings that are none of ours, and put in their places what is used instead.

    So nothing else is said of them: neither that a certificate has several lines, nor that its file is missing.
    """
    for where, instead in UNSUPPORTED.items():
        section = document.root
        for step in where[:-1]:
            section = section.get(str(step)) if isinstance(section, dict) else None
        name = str(where[-1])
        if isinstance(section, dict) and name in section:
            del section[name]
            document.faults[:] = [fault for fault in document.faults if fault.where[: len(where)] != where]
            what = "is not supported" if instead is None else f"is not supported, use {instead}"
            yield Fault(document.line(where), where, what)
            if instead is not None:
                section.setdefault(instead, name)


def _empty(document: Document) -> Iterator[Fault]:
    """Find what secures nothing where somebody may think it does."""
    for name in ("tls_server_config", "basic_auth_users"):
        if isinstance(document.root, dict) and document.root.get(name, {}) is None:
            yield Fault(document.line((name,)), (name,), "is empty; to go without, leave it out")


def _contradictions(config: WebConfig) -> Iterator[tuple[Location, str]]:
    """Find what no single setting shows."""
    for name, value in config.http_server_config.headers.items():
        if value and HEADERS[name] and value not in HEADERS[name]:
            yield (
                ("http_server_config", "headers", name),
                f"must be {' or '.join(HEADERS[name])}, not {shown(value)}",
            )
    tls = config.tls_server_config
    if tls is None:
        return
    if tls.min_version > tls.max_version:
        yield ("tls_server_config", "min_version"), f"is above the max_version, {tls.max_version}"
    if tls.client_ca_file is not None and tls.client_auth_type == "NoClientCert":
        yield (
            ("tls_server_config", "client_ca_file"),
            "is of no use without client_auth_type: RequireAndVerifyClientCert",
        )
    if tls.client_ca_file is None and tls.client_auth_type != "NoClientCert":
        yield ("tls_server_config", "client_auth_type"), f"{tls.client_auth_type} needs client_ca_file"
    if tls.client_allowed_sans and tls.client_auth_type != "RequireAndVerifyClientCert":
        yield (
            ("tls_server_config", "client_allowed_sans"),
            "needs client_auth_type: RequireAndVerifyClientCert",
        )
    if tls.cipher_suites and CIPHERS_OF_TLS13.issuperset(tls.cipher_suites) and tls.min_version != "TLS13":
        yield ("tls_server_config", "cipher_suites"), "has none of TLS 1.2, so it needs min_version: TLS13"
    if len(tls.curve_preferences) > 1:
        yield ("tls_server_config", "curve_preferences"), "more than one curve is not supported"


class _UnusableError(Exception):
    """A file of the TLS settings cannot be used."""

    def __init__(self, setting: str, what: str) -> None:
        super().__init__(what)
        self.setting, self.what = setting, what


def _context(tls: TlsServerConfig, excluded_paths: tuple[str, ...]) -> ssl.SSLContext:
    """Return the TLS that these settings ask for. Raises _UnusableError."""
    context = TlsContext(ssl.PROTOCOL_TLS_SERVER)
    _load_certificate(context, tls)
    context.minimum_version, context.maximum_version = VERSIONS[tls.min_version], VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if ciphers := [CIPHERS[name] for name in tls.cipher_suites if name in CIPHERS]:
        context.set_ciphers(":".join(ciphers))
    for curve in tls.curve_preferences:
        context.set_ecdh_curve(CURVES[curve])
    context.set_alpn_protocols(["http/1.1"])
    if tls.client_ca_file is not None:
        _readable("client_ca_file", tls.client_ca_file)
        try:
            context.load_verify_locations(tls.client_ca_file)
        except ssl.SSLError as error:
            raise _UnusableError(
                "client_ca_file", f"holds no certificates in PEM: {_reason(error)}"
            ) from None
        context.verify_flags |= (
            ssl.VERIFY_X509_PARTIAL_CHAIN
        )  # an intermediate authority is trusted by itself
        # Where a path goes without, who asks for another one is turned away once that is known.
        required = tls.client_auth_type == "RequireAndVerifyClientCert" and not excluded_paths
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _load_certificate(context: ssl.SSLContext, tls: TlsServerConfig) -> None:
    certificate = _readable("cert_file", tls.cert_file)
    _readable("key_file", tls.key_file)
    try:
        # Without a password of our own OpenSSL would ask for one on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _UnusableError("key_file", "is not the key of the certificate in cert_file") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=certificate.decode("ascii", "ignore")
            )
        except (ssl.SSLError, ValueError):
            raise _UnusableError("cert_file", "holds no certificate in PEM") from None
        raise _UnusableError(
            "key_file", f"holds no key in PEM without a password: {_reason(error)}"
        ) from None


def _readable(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _UnusableError(setting, f"{path} cannot be read: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
