"""The web configuration: what it accepts, and how it names what it does not."""

import ssl
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.settings import ConfigError
from exporter.web_config import CIPHERS, CURVES, HEADERS, WebConfig, load
from tests.certificates import Authority

HASH = "$2y$04$X0h1gDsPszWURQaxFh.zouPoNh0nJAjGr2gWVn5u8CVQoQsmtgO3."
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with certificates, good ones and others."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.issue("server")
    authority.issue("other")
    authority.issue("locked", password=b"secret")
    (folder / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n")
    (folder / "empty.pem").write_text("")
    return folder


def faults(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a web configuration, without the folder."""
    file = folder / "web.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    return [fault.replace(f"{folder}/", "") for fault in error.value.faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n", ["web.yaml:1: must be a mapping, not a list"]),
        ("tls: {}\n", ["web.yaml:1: tls: is not known"]),
        (
            "basic_auth_user: {}\n",
            ["web.yaml:1: basic_auth_user: is not known, did you mean basic_auth_users?"],
        ),
        (
            "basic_auth_users:\ntls_server_config:\n",
            [
                "web.yaml:1: basic_auth_users: is empty; to go without, leave it out",
                "web.yaml:2: tls_server_config: is empty; to go without, leave it out",
            ],
        ),
        ("rate_limit:\n  burst: 20\n", ["web.yaml:1: rate_limit: is not supported"]),
        (
            "tls_server_config: {}\n",
            [
                "web.yaml:1: tls_server_config.cert_file: is required",
                "web.yaml:1: tls_server_config.key_file: is required",
            ],
        ),
        (f"{TLS}  cert: x\n", ["web.yaml:4: tls_server_config.cert: is not supported, use cert_file"]),
        (f"{TLS}  key: x\n", ["web.yaml:4: tls_server_config.key: is not supported, use key_file"]),
        (
            f"{TLS}  client_ca: x\n",
            ["web.yaml:4: tls_server_config.client_ca: is not supported, use client_ca_file"],
        ),
        (
            (
                "tls_server_config:\n  cert: |\n    -----BEGIN CERTIFICATE-----\n    bm90aGluZw==\n"
                "    -----END CERTIFICATE-----\n  key: |\n    -----BEGIN PRIVATE KEY-----\n    bm90aGluZw==\n"
                "    -----END PRIVATE KEY-----\n  client_auth_type: RequireAndVerifyClientCert\n"
                "  client_ca: |\n    -----BEGIN CERTIFICATE-----\n"
            ),
            [
                "web.yaml:2: tls_server_config.cert: is not supported, use cert_file",
                "web.yaml:6: tls_server_config.key: is not supported, use key_file",
                "web.yaml:11: tls_server_config.client_ca: is not supported, use client_ca_file",
            ],
        ),
        (
            "tls_server_config:\n  cert: {a: b}\n  cert_file: [x]\n",
            [
                "web.yaml:1: tls_server_config.key_file: is required",
                "web.yaml:2: tls_server_config.cert: is not supported, use cert_file",
                "web.yaml:3: tls_server_config.cert_file: must be the name of a file, not a list",
            ],
        ),
        (
            f"{TLS}  client_auth_type: RequireAnyClientCert\n",
            [
                (
                    "web.yaml:4: tls_server_config.client_auth_type: RequireAnyClientCert is not supported, as it lets "
                    "any certificate in; use RequireAndVerifyClientCert"
                )
            ],
        ),
        (
            f"{TLS}  client_auth_type: Always\n",
            [
                (
                    "web.yaml:4: tls_server_config.client_auth_type: must be NoClientCert, VerifyClientCertIfGiven or "
                    'RequireAndVerifyClientCert, not "Always"'
                )
            ],
        ),
        (
            f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n",
            [
                "web.yaml:4: tls_server_config.client_auth_type: RequireAndVerifyClientCert needs client_ca_file"
            ],
        ),
        (
            f"{TLS}  client_ca_file: ca.crt\n",
            [
                (
                    "web.yaml:4: tls_server_config.client_ca_file: is of no use without client_auth_type: "
                    "RequireAndVerifyClientCert"
                )
            ],
        ),
        (
            (
                f"{TLS}  client_ca_file: ca.crt\n  client_auth_type: VerifyClientCertIfGiven\n"
                "  client_allowed_sans: [prometheus]\n"
            ),
            [
                (
                    "web.yaml:6: tls_server_config.client_allowed_sans: needs client_auth_type: "
                    "RequireAndVerifyClientCert"
                )
            ],
        ),
        (
            f"{TLS}  client_allowed_sans: []\n",
            ["web.yaml:4: tls_server_config.client_allowed_sans: must hold a name"],
        ),
        (
            f"{TLS}  min_version: TLS10\n",
            [
                (
                    "web.yaml:4: tls_server_config.min_version: TLS10 is not supported: OpenSSL refuses what RFC 8996 "
                    "deprecates"
                )
            ],
        ),
        (
            f"{TLS}  max_version: SSL3\n",
            ['web.yaml:4: tls_server_config.max_version: must be TLS12 or TLS13, not "SSL3"'],
        ),
        (
            f"{TLS}  max_version: TLS12\n  min_version: TLS13\n",
            ["web.yaml:5: tls_server_config.min_version: is above the max_version, TLS12"],
        ),
        (
            f"{TLS}  cipher_suites:\n    - TLS_AES_128_GCM_SHA256\n",
            [
                "web.yaml:4: tls_server_config.cipher_suites: has none of TLS 1.2, so it needs min_version: TLS13"
            ],
        ),
        (
            f"{TLS}  curve_preferences: [X25519, CurveP256]\n",
            ["web.yaml:4: tls_server_config.curve_preferences: more than one curve is not supported"],
        ),
        (
            f"{TLS}  curve_preferences: [CurveP255]\n",
            [
                (
                    "web.yaml:4: tls_server_config.curve_preferences[0]: must be CurveP256, CurveP384, CurveP521 or "
                    'X25519, not "CurveP255"'
                )
            ],
        ),
        (
            f"{TLS}  prefer_server_cipher_suites: maybe\n",
            ['web.yaml:4: tls_server_config.prefer_server_cipher_suites: must be true or false, not "maybe"'],
        ),
        (
            "http_server_config:\n  http2: on\n",
            ["web.yaml:2: http_server_config.http2: true is not supported: HTTP/2 is not spoken here"],
        ),
        (
            "http_server_config:\n  headers:\n    Server: none\n",
            [
                (
                    "web.yaml:3: http_server_config.headers.Server: must be Content-Security-Policy, "
                    "Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options or X-XSS-Protection, not "
                    '"Server"'
                )
            ],
        ),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
            [
                'web.yaml:3: http_server_config.headers.X-Frame-Options: must be deny or sameorigin, not "allow"'
            ],
        ),
        (
            'http_server_config:\n  headers:\n    X-XSS-Protection: "0\\r\\nSet-Cookie: a=b"\n',
            [
                "web.yaml:3: http_server_config.headers.X-XSS-Protection: must be one line without control characters"
            ],
        ),
        (
            "http_server_config:\n  headers:\n    X-XSS-Protection: über\n",
            [
                'web.yaml:3: http_server_config.headers.X-XSS-Protection: must be ASCII text, not "über"',
            ],
        ),
        (
            "auth_excluded_paths: [/-/healthy, /metrics]\n",
            ['web.yaml:1: auth_excluded_paths[1]: must be /-/healthy or /-/ready, not "/metrics"'],
        ),
        (
            f'basic_auth_users:\n  "a:b": {HASH}\n',
            ['web.yaml:2: basic_auth_users["a:b"]: must be a name without a colon, not "a:b"'],
        ),
        (f"basic_auth_users:\n  alice: {HASH}\n  alice: {HASH}\n", 3),
        (
            "http_server_config:\n  http2: true\nrate_limit: {}\nauth_excluded_paths: x\n",
            [
                "web.yaml:2: http_server_config.http2: true is not supported: HTTP/2 is not spoken here",
                "web.yaml:3: rate_limit: is not supported",
                'web.yaml:4: auth_excluded_paths: must be a list, not "x"',
            ],
        ),
    ],
)
def test_every_fault_is_named_with_its_line(files: Path, text: str, expected: list[str] | int):
    if isinstance(expected, int):
        expected = [f"web.yaml:{expected}: basic_auth_users.alice: is given twice, first on line 2"]
    assert faults(files, text) == expected


@pytest.mark.parametrize(
    "password",
    [
        "secret",
        "",
        "[secret]",
        HASH[:-1],
        HASH.replace("$04$", "$03$"),
        HASH.replace("$04$", "$19$"),
        HASH.replace("$2y$", "$2x$"),
        HASH.replace("$2y$", "$1$"),
        HASH.replace(".zou", ".zoz"),
    ],
)
def test_a_password_that_is_no_hash_is_refused_and_not_shown(files: Path, password: str):
    assert faults(files, f"basic_auth_users:\n  alice: {password}\n") == [
        (
            "web.yaml:2: basic_auth_users.alice: must be a bcrypt hash of a cost up to 18, as `htpasswd -nBC 10 NAME` "
            "makes it"
        )
    ]


@pytest.mark.parametrize(
    ("certificate", "key", "expected"),
    [
        ("none.crt", "server.key", "2: cert_file: none.crt cannot be read: No such file or directory"),
        ("server.crt", "none.key", "3: key_file: none.key cannot be read: No such file or directory"),
        ("server.crt", ".", "3: key_file: . cannot be read: Is a directory"),
        ("junk.pem", "server.key", "2: cert_file: holds no certificate in PEM"),
        ("empty.pem", "server.key", "2: cert_file: holds no certificate in PEM"),
        ("server.key", "server.key", "2: cert_file: holds no certificate in PEM"),
        ("server.crt", "other.key", "3: key_file: is not the key of the certificate in cert_file"),
    ],
)
def test_files_that_cannot_be_used_are_named(files: Path, certificate: str, key: str, expected: str):
    text = f"tls_server_config:\n  cert_file: {files / certificate}\n  key_file: {files / key}\n"
    line, what = expected.split(": ", 1)
    what = what.replace(". cannot", f"{files} cannot") if key == "." else what
    assert faults(files, text) == [f"web.yaml:{line}: tls_server_config.{what}"]


@pytest.mark.parametrize("key", ["locked.key", "empty.pem", "ca.crt"])
def test_a_key_that_cannot_be_read_is_named(files: Path, key: str):
    certificate = key.replace(".key", ".crt") if key == "locked.key" else "server.crt"
    text = f"tls_server_config: {{cert_file: {certificate}, key_file: {key}}}\n"
    (fault,) = faults(files, text)
    assert fault.startswith(
        "web.yaml:1: tls_server_config.key_file: holds no key in PEM without a password: "
    )


@pytest.mark.parametrize("authorities", ["empty.pem", "server.key", "junk.pem"])
def test_authorities_that_are_none_are_named(files: Path, authorities: str):
    text = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {authorities}\n"
    (fault,) = faults(files, text)
    assert fault.startswith("web.yaml:5: tls_server_config.client_ca_file: holds no certificates in PEM: ")


def test_a_web_configuration_that_is_not_there_is_a_fault(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"web\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "web.yaml")


def loaded(folder: Path, text: str) -> tuple[WebConfig, ssl.SSLContext | None]:
    file = folder / "web.yaml"
    file.write_text(text)
    return load(file)


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "---\n", "{}\n", "null\n", "http_server_config: {http2: false}\n"]
)
def test_what_is_not_asked_for_is_not_done(files: Path, text: str):
    config, context = loaded(files, text)
    assert (config.basic_auth_users, config.auth_excluded_paths, config.files(), context) == (
        {},
        (),
        (),
        None,
    )


def test_settings_become_a_tls_context(files: Path):
    config, context = loaded(
        files,
        f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  min_version: TLS13\n"
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n"
        "  prefer_server_cipher_suites: false\n  curve_preferences: [CurveP384]\n",
    )
    assert context is not None
    assert config.files() == (files / "server.crt", files / "server.key", files / "ca.crt")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    below = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert below == {"ECDHE-ECDSA-AES128-GCM-SHA256"}


@pytest.mark.parametrize(
    ("more", "mode"),
    [
        ("", ssl.CERT_NONE),
        ("  client_auth_type: NoClientCert\n", ssl.CERT_NONE),
        ("  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.crt\n", ssl.CERT_OPTIONAL),
        ("  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n", ssl.CERT_REQUIRED),
        (
            (
                "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
                "auth_excluded_paths: [/-/ready]\n"
            ),
            ssl.CERT_OPTIONAL,
        ),
    ],
)
def test_a_client_certificate_is_asked_for_as_configured(files: Path, more: str, mode: ssl.VerifyMode):
    _, context = loaded(files, TLS + more)
    assert context is not None
    assert context.verify_mode is mode
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", CIPHERS)
def test_every_cipher_suite_is_one_that_openssl_has(name: str):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(CIPHERS[name])
    below = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert below == [CIPHERS[name]]


@pytest.mark.parametrize("name", CURVES)
def test_every_curve_is_one_that_openssl_has(files: Path, name: str):
    assert loaded(files, f"{TLS}  curve_preferences: [{name}]\n")[1] is not None


@pytest.mark.parametrize("name", HEADERS)
def test_every_header_may_be_set_or_left_empty(files: Path, name: str):
    value = (*HEADERS[name], "max-age=1; always")[0]
    for given_value, expected in ((value, value), ("", None)):
        config, _ = loaded(
            files, f"http_server_config: {{headers: {{{name}: '{value if given_value else ''}'}}}}"
        )
        assert (config.http_server_config.headers[name] or None) == expected


@given(st.text())
@example("tls_server_config: {cert_file: x, key_file: x, client_ca_file: {a: b}}")
@example("http_server_config: {headers: {[a]: b}}")
@example("basic_auth_users: {? : x}")
def test_any_text_is_a_configuration_or_a_list_of_faults(tmp_path_factory: pytest.TempPathFactory, text: str):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        config, context = load(file)
    except ConfigError:
        return
    assert (config.tls_server_config is None) == (context is None)
