"""The gate: who may come in, and how it goes with the files."""

import logging
import shutil
from pathlib import Path

import bcrypt
import pytest

from exporter.basic_auth import Users
from exporter.gate import ASK_FOR_PASSWORD, NO_CERTIFICATE, OTHER_NAME, Gate, Refusal, names
from exporter.settings import ConfigError
from tests.certificates import Authority
from tests.test_basic_auth import hashed, header

CERTIFICATE = {"subjectAltName": (("DNS", "prometheus.example"), ("IP Address", "0:0:0:0:0:0:0:1"))}
WITH_TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
WITH_CLIENTS = f"{WITH_TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Authority(tmp_path).issue("server")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "web.yaml"
    beside = folder / "web.yaml.new"
    beside.write_text(text)
    beside.replace(file)
    return file


def alice(password: str) -> str:
    return f"basic_auth_users: {{alice: {hashed(password.encode())}}}\n"


async def refreshed(gate: Gate) -> bool:
    """Let the gate look until a change has rested."""
    return await gate.refresh() or await gate.refresh()


async def test_without_a_web_configuration_everybody_may_come_in():
    gate = Gate()
    assert await gate.refusal("/metrics", None, None) is None
    assert (gate.context, gate.headers, await gate.refresh()) == (None, {}, False)


@pytest.mark.parametrize(
    ("text", "path", "password", "certificate", "expected"),
    [
        (alice("a"), "/metrics", None, None, ASK_FOR_PASSWORD),
        (alice("a"), "/metrics", "b", None, ASK_FOR_PASSWORD),
        (alice("a"), "/metrics", "a", None, None),
        (alice("a"), "/-/healthy", None, None, ASK_FOR_PASSWORD),
        (alice("a"), "", None, None, ASK_FOR_PASSWORD),
        (f"{alice('a')}auth_excluded_paths: [/-/healthy]\n", "/-/healthy", None, None, None),
        (f"{alice('a')}auth_excluded_paths: [/-/healthy]\n", "/-/ready", None, None, ASK_FOR_PASSWORD),
        (f"{alice('a')}auth_excluded_paths: [/-/healthy]\n", "/metrics", None, None, ASK_FOR_PASSWORD),
        (WITH_CLIENTS, "/metrics", None, None, NO_CERTIFICATE),
        (WITH_CLIENTS, "/metrics", None, {}, NO_CERTIFICATE),
        (WITH_CLIENTS, "/metrics", None, CERTIFICATE, None),
        (f"{WITH_CLIENTS}auth_excluded_paths: [/-/ready]\n", "/-/ready", None, None, None),
        (f"{WITH_CLIENTS}auth_excluded_paths: [/-/ready]\n", "/metrics", None, None, NO_CERTIFICATE),
        (f"{WITH_CLIENTS}{alice('a')}", "/metrics", "a", None, NO_CERTIFICATE),
        (f"{WITH_CLIENTS}{alice('a')}", "/metrics", None, CERTIFICATE, ASK_FOR_PASSWORD),
        (f"{WITH_CLIENTS}{alice('a')}", "/metrics", "a", CERTIFICATE, None),
        (f"{WITH_CLIENTS}  client_allowed_sans: ['::1', x]\n", "/metrics", None, CERTIFICATE, None),
        (f"{WITH_CLIENTS}  client_allowed_sans: [example]\n", "/metrics", None, CERTIFICATE, OTHER_NAME),
        (
            f"{WITH_CLIENTS.replace('RequireAndVerifyClientCert', 'VerifyClientCertIfGiven')}",
            "/metrics",
            None,
            None,
            None,
        ),
    ],
)
async def test_who_may_come_in_is_as_configured(
    folder: Path,
    text: str,
    path: str,
    *,
    password: str | None,
    certificate: dict[str, tuple[tuple[str, str], ...]] | None,
    expected: Refusal | None,
):
    gate = Gate(write(folder, text))
    authorization = None if password is None else header("alice", password)
    assert await gate.refusal(path, authorization, certificate) == expected


def test_a_wrong_web_configuration_is_refused_at_the_start(folder: Path):
    with pytest.raises(ConfigError, match=r"web\.yaml:1: tls: is not known"):
        Gate(write(folder, "tls: {}"))


async def test_users_that_change_are_let_in_or_not_without_a_restart(folder: Path):
    gate = Gate(write(folder, alice("old")))
    assert not await refreshed(gate)
    assert await gate.refusal("/metrics", header("alice", "old"), None) is None
    write(folder, alice("new"))
    assert await refreshed(gate)
    assert await gate.refusal("/metrics", header("alice", "old"), None) == ASK_FOR_PASSWORD
    assert await gate.refusal("/metrics", header("alice", "new"), None) is None
    assert not await refreshed(gate)


async def test_a_certificate_that_changes_makes_no_password_be_checked_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    gate = Gate(write(folder, alice("a") + WITH_TLS))
    assert not await refreshed(gate)
    assert await gate.refusal("/metrics", header("alice", "a"), None) is None
    monkeypatch.setattr(Users, "_check", None)  # whoever calls it now fails
    shutil.copy(folder / "server.crt", folder / "copy")
    (folder / "copy").replace(folder / "server.crt")
    assert await refreshed(gate)
    assert await gate.refusal("/metrics", header("alice", "a"), None) is None


@pytest.mark.parametrize("name", ["server.crt", "server.key", "ca.crt"])
async def test_certificates_that_change_are_read_again(folder: Path, name: str):
    gate = Gate(write(folder, WITH_CLIENTS))
    before = gate.context
    assert not await refreshed(gate)
    shutil.copy(folder / name, folder / "copy")
    (folder / "copy").replace(folder / name)
    assert await refreshed(gate)
    assert gate.context is not before


async def test_a_file_that_is_still_being_written_is_not_read(folder: Path):
    gate = Gate(write(folder, alice("a")))
    await refreshed(gate)
    for text in ("http_server_config: {}\n", "http_server_config: {http2: false}\n"):  # as yet without users
        write(folder, text)
        assert not await gate.refresh()
        assert await gate.refusal("/metrics", None, None) == ASK_FOR_PASSWORD
    assert await gate.refresh()
    assert await gate.refusal("/metrics", None, None) is None


async def test_a_file_gone_wrong_changes_nothing_and_is_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    gate = Gate(write(folder, alice("a") + WITH_TLS))
    context = gate.context
    (folder / "server.key").rename(folder / "away.key")
    for _ in range(3):
        assert not await refreshed(gate)
    assert gate.context is context
    assert await gate.refusal("/metrics", header("alice", "a"), None) is None
    assert [(record.message, record.levelname) for record in caplog.records] == [
        ("web configuration not read anew", "ERROR")
    ]
    (fault,) = (record.fields["fault"] for record in caplog.records)  # type: ignore[attr-defined]
    assert fault.endswith("server.key cannot be read: No such file or directory")
    (folder / "away.key").rename(folder / "server.key")
    assert await refreshed(gate)
    assert caplog.records[-1].message == "web configuration read anew"


async def test_a_file_that_is_named_before_it_is_there_is_read_when_it_comes(folder: Path):
    gate = Gate(write(folder, alice("a")))
    write(folder, WITH_TLS.replace("server.", "later."))
    assert not await refreshed(gate)
    shutil.copy(folder / "server.crt", folder / "later.crt")
    shutil.copy(folder / "server.key", folder / "later.key")
    assert await refreshed(gate)
    assert gate.context is not None


@pytest.mark.parametrize("text", ["", "# for later\n", "{}\n", "http_server_config: {http2: false}\n"])
async def test_a_file_that_secures_nothing_lets_everybody_in_and_that_is_told(
    folder: Path, text: str, caplog: pytest.LogCaptureFixture
):
    gate = Gate(write(folder, text))
    assert (await gate.refusal("/metrics", None, None), gate.context) == (None, None)
    assert [record.message for record in caplog.records] == [
        "web configuration asks for neither TLS nor passwords"
    ]


async def test_a_file_that_is_emptied_is_read_like_any_other_and_that_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    gate = Gate(write(folder, alice("a")))
    assert not await refreshed(gate)
    write(folder, "")
    assert not await gate.refresh()  # a file half written is empty at first
    assert await gate.refusal("/metrics", None, None) == ASK_FOR_PASSWORD
    assert await gate.refresh()
    assert await gate.refusal("/metrics", None, None) is None
    assert [record.message for record in caplog.records] == [
        "web configuration asks for neither TLS nor passwords"
    ]


def test_headers_that_are_empty_are_not_set(folder: Path):
    text = "http_server_config: {headers: {X-Frame-Options: deny, X-XSS-Protection: '', X-Content-Type-Options: }}"
    assert Gate(write(folder, text)).headers == {"X-Frame-Options": "deny"}


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ({}, set()),
        ({"subject": ((("commonName", "prometheus"),),)}, set()),
        (
            {
                "subjectAltName": (
                    ("DNS", "a.example"),
                    ("IP Address", "2001:DB8:0:0:0:0:0:1"),
                    ("IP Address", "10.0.0.1"),
                    ("email", "a@example"),
                    ("URI", "spiffe://example/a"),
                )
            },
            {"a.example", "2001:db8::1", "10.0.0.1", "a@example", "spiffe://example/a"},
        ),
    ],
)
def test_the_names_of_a_certificate_are_its_alternative_names(
    certificate: dict[str, tuple[tuple[str, str], ...]], expected: set[str]
):
    assert names(certificate) == expected


def test_the_decoys_are_hashes_that_bcrypt_takes():
    assert bcrypt.checkpw(b"anything", b"$2b$04$" + b"." * 53) is False
