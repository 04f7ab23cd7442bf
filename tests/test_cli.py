"""The command: exit codes and one clear line for each foreseeable fault, as a user would meet them."""

import asyncio
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from exporter.config import load
from tests.processes import exporter

SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
FREE_PORT = "--web.listen-address=127.0.0.1:0"
NAMED = f"subscriptions: [{{id: {SUBSCRIPTION}, scale_sets: [{{resource_group: rg, name: web}}]}}]\n"


def command(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
        cwd=folder,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(NAMED)
    return tmp_path


def test_the_version_is_told(folder: Path):
    ended = command("--version", folder=folder)
    assert (ended.returncode, ended.stdout.split(" (")[0]) == (0, f"vmss-upgrade-exporter {__version__}")


def test_a_defect_is_logged_without_the_secrets_that_its_traceback_holds():
    program = """
import sys
from exporter import cli, commands, redaction

def fail(_):
    redaction.remember("hunter2-and-more")
    raise RuntimeError("hunter2-and-more")

commands.COMMANDS["simulate"] = fail
sys.exit(cli.main(["simulate"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "hunter2" not in ended.stderr
    (line,) = ended.stderr.splitlines()
    assert 'level=error msg="defect of the exporter, it ends" traceback="Traceback' in line
    assert "RuntimeError: ***" in line


def test_help_names_commands_and_flags(folder: Path):
    ended = command("--help", folder=folder)
    assert ended.returncode == 0
    for word in (
        "demo",
        "simulate",
        "check",
        "--config.file",
        "--web.listen-address",
        "--web.config.file",
        "--log.format",
    ):
        assert word in ended.stdout


def test_check_finds_a_good_configuration_fine(folder: Path):
    ended = command("check", folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "config.yaml: fine: 1 subscriptions, 1 scale sets named, discovery in 0 subscriptions\n"
    )


@pytest.mark.parametrize("arguments", [(), ("check",)])
def test_a_wrong_configuration_ends_with_2_and_every_fault_with_its_line(
    folder: Path, arguments: tuple[str, ...]
):
    (folder / "config.yaml").write_text(f"polling:\n  interval: soon\n  pace: 1\n{NAMED}")
    ended = command(*arguments, folder=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        'config.yaml:2: polling.interval: must be a duration such as 90s, 5m or 1h30m, not "soon"\n'
        "config.yaml:3: polling.pace: is not known\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no.such.flag"], "unrecognized arguments: --no.such.flag"),
        (["--web.listen-address=nowhere"], "must be host:port, [address]:port or :port, not 'nowhere'"),
        (["--web.telemetry-path=metrics"], "must be a path such as /metrics, not 'metrics'"),
        (["--web.telemetry-path=/{any}"], "must be a path such as /metrics, not '/{any}'"),
        *(
            (
                [f"--web.telemetry-path={path}"],
                f"must not be a path that serves something else, as '{path}' does",
            )
            for path in ("/-/healthy", "/api/v1/scale-sets", "/config", "/static/status.css")
        ),
        (["--log.level=loud"], "invalid choice: 'loud'"),
        (["--shard=-1"], "must be a whole number, 0 or more, not '-1'"),
        (["--total-shards=0"], "must be a whole number, 1 or more, not '0'"),
        (["--total-shards=9999999999"], "must be a whole number, 1 or more, not '9999999999'"),
        (["--shard=1"], "--shard: shard 1 is not below --total-shards=1"),
        (["--shard=3", "--total-shards=3"], "--shard: shard 3 is not below --total-shards=3"),
        (["--total-shards=3"], "--total-shards=3 needs --shard, or the name of a StatefulSet's pod"),
        (["demo", "--simulator.scale-sets=0"], "must be a whole number, 1 or more, not '0'"),
        (["demo", "--simulator.speed=fast"], "must be a number above 0, not 'fast'"),
        *(
            (
                [command, f"--simulator.listen-address={address}"],
                f"must be host:port, [address]:port or :port, not '{address}'",
            )
            for command in ("demo", "simulate")
            for address in ("foo", ":x", "127.0.0.1:99999")
        ),
        *(
            (
                ["backfill", f"--until={until}"],
                f"must be at least 3h ago, Prometheus still holds what is newer, not '{until}'",
            )
            for until in ("1h", "2h59m59s999ms", "2999-01-01T00:00:00Z")
        ),
        (["backfill", "--until=2026-11-01"], "must be a time such as 2026-11-01T00:00:00Z, not '2026-11-01'"),
        (["backfill", "--label=job"], "must be a label such as job=vmss-upgrade-exporter, not 'job'"),
        (["backfill", "--label=jo-b=x"], "must be a label such as job=vmss-upgrade-exporter, not 'jo-b=x'"),
        (["backfill", "--label=job=\udcff"], "must be text in UTF-8, not"),
        (["check", "--output=json"], "--output=json is for check --live, which was not given"),
        (["demo", "--simulator.faults=2"], "must be a number from 0 to 1, not '2'"),
    ],
)
def test_a_wrong_flag_ends_with_2(folder: Path, arguments: list[str], said: str):
    ended = command(*arguments, folder=folder)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_past_that_ends_less_than_three_hours_ago_is_refused_as_a_date_too(folder: Path):
    moment = datetime.now(UTC) - timedelta(hours=2, minutes=50)
    ended = command("backfill", f"--until={moment.isoformat()}", folder=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "must be at least 3h ago" in ended.stderr


@pytest.mark.parametrize("until", ["3h", (datetime(2026, 11, 1, tzinfo=UTC)).isoformat()])
def test_a_past_that_ends_three_hours_ago_or_more_is_taken(folder: Path, until: str):
    ended = command(
        "backfill", f"--until={until}", "--from=292y", "--config.file=missing.yaml", folder=folder
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        "vmss-upgrade-exporter: missing.yaml: No such file or directory\n",
    )


def test_labels_that_the_samples_have_already_end_with_2_and_a_line_each(folder: Path):
    flags = [f"--label={name}=x" for name in ("state", "__name__", "job", "job")]
    ended = command("backfill", *flags, "--from=1h", folder=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "--label=state=...: the samples have this label already, choose another name",
        "--label=__name__=...: names that begin with __ are reserved by Prometheus, choose another name",
        "--label=job=...: is given 2 times, give it once",
        "--from must be before --until, which is at least 3h ago",
    ]


@pytest.mark.parametrize("arguments", [(FREE_PORT,), ("check",), ("check", "--live"), ("backfill",)])
def test_a_file_that_is_no_journal_ends_with_1_and_one_line_and_is_left_alone(
    folder: Path, arguments: tuple[str, ...]
):
    (folder / "config.yaml").write_text(f"{NAMED}journal: {{path: notes.txt}}\n")
    (folder / "notes.txt").write_text("notes\n")
    ended = command(*arguments, "--log.level=error", folder=folder)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "",
        f"vmss-upgrade-exporter: {folder / 'notes.txt'}: is not a journal of this exporter (file is not a database): move it away, or set another journal.path\n",
    )
    assert (folder / "notes.txt").read_text() == "notes\n"


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0"], ids=["empty", "damaged"])
def test_check_accepts_a_journal_that_the_daemon_begins_anew(folder: Path, content: bytes):
    (folder / "config.yaml").write_text(f"{NAMED}journal: {{path: journal.sqlite}}\n")
    (folder / "journal.sqlite").write_bytes(content)
    ended = command("check", folder=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (folder / "journal.sqlite").read_bytes() == content


@pytest.mark.parametrize("arguments", [(), ("check",), ("demo",)])
def test_a_wrong_web_configuration_ends_with_2_and_every_fault_with_its_line(
    folder: Path, arguments: tuple[str, ...]
):
    (folder / "web.yaml").write_text("tls_server_config:\n  cert_file: a\nbasic_auth_users: {a: b}\n")
    ended = command(*arguments, "--web.config.file=web.yaml", folder=folder)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-2:] == [
        "web.yaml:1: tls_server_config.key_file: is required",
        (
            "web.yaml:3: basic_auth_users.a: must be a bcrypt hash of a cost up to 18, as `htpasswd -nBC 10 NAME` "
            "makes it"
        ),
    ]


def test_a_web_configuration_that_cannot_be_read_ends_with_2(folder: Path):
    ended = command("--web.config.file=missing.yaml", folder=folder)
    assert (ended.returncode, ended.stderr) == (
        2,
        "missing.yaml: cannot be read: No such file or directory\n",
    )


def test_a_configuration_that_cannot_be_read_ends_with_1_and_one_line(folder: Path):
    ended = command("--config.file=missing.yaml", folder=folder)
    assert (ended.returncode, ended.stderr) == (
        1,
        "vmss-upgrade-exporter: missing.yaml: No such file or directory\n",
    )


def test_a_missing_certificate_ends_with_1_and_one_line(folder: Path):
    (folder / "config.yaml").write_text(
        f"credential: {{kind: client_certificate, tenant_id: t, client_id: c, certificate_file: cert.pem}}\n{NAMED}"
    )
    ended = command(folder=folder)
    assert (ended.returncode, ended.stderr) == (
        1,
        "vmss-upgrade-exporter: credential.certificate_file: cert.pem: No such file or directory\n",
    )


def test_a_certificate_that_is_none_ends_with_1_and_one_line(folder: Path):
    (folder / "cert.pem").write_text("hello")
    (folder / "config.yaml").write_text(
        f"credential: {{kind: client_certificate, tenant_id: t, client_id: c, certificate_file: cert.pem}}\n{NAMED}"
    )
    ended = command("check", folder=folder)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(
        "vmss-upgrade-exporter: credential.certificate_file: cert.pem: Failed to deserialize"
    )


@pytest.mark.parametrize("arguments", [(FREE_PORT,), ("check",), ("check", "--live")])
def test_a_journal_in_a_folder_that_there_is_not_ends_with_1_and_one_line(
    folder: Path, arguments: tuple[str, ...]
):
    (folder / "config.yaml").write_text(f"{NAMED}journal: {{path: none/journal.sqlite}}\n")
    ended = command(*arguments, "--log.level=error", folder=folder)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"vmss-upgrade-exporter: {folder / 'none'}")


def test_check_says_that_it_is_the_journals_folder(folder: Path):
    (folder / "config.yaml").write_text(f"{NAMED}journal: {{path: none/journal.sqlite}}\n")
    assert command("check", folder=folder).stderr == (
        f"vmss-upgrade-exporter: {folder / 'none'}: the folder of journal.path does not exist\n"
    )


def test_a_port_in_use_ends_with_1_and_one_line(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = command(f"--web.listen-address={address}", folder=folder)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"vmss-upgrade-exporter: cannot listen on {address}: ")
    assert "in use" in line


async def test_simulate_writes_a_configuration_that_polls_it(tmp_path: Path):
    file = tmp_path / "config.yaml"
    simulator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "simulate", f"--simulator.config-out={file}"),
        "--simulator.scale-sets=3",
        "--simulator.subscriptions=1",
        stderr=asyncio.subprocess.PIPE,
    )
    assert simulator.stderr is not None
    try:
        async with asyncio.timeout(20):
            line = (await simulator.stderr.readline()).decode()
            while not file.exists():
                await asyncio.sleep(0.02)
        config = load(file)
        assert config.cloud.endpoint in line
        assert len(config.named_scale_sets()) == 3
        async with exporter(
            f"--config.file={file}",
            IDENTITY_ENDPOINT=f"{config.cloud.endpoint}/token",
            IDENTITY_HEADER="simulator",
        ) as daemon:
            await daemon.until_ready()
            assert (await daemon.get("/metrics"))[1].count("\nazure_vmss_os_upgrade_up{") == 3
            shown = (await daemon.get("/config"))[1]
            assert yaml.safe_load(shown)["cloud"]["endpoint"] == config.cloud.endpoint
    finally:
        simulator.terminate()
        assert await simulator.wait() == 0


async def test_the_telemetry_path_can_be_moved(folder: Path):
    async with exporter(
        f"--config.file={folder / 'config.yaml'}", "--web.telemetry-path=/upgrades", "--log.format=json"
    ) as daemon:
        assert (await daemon.get("/upgrades"))[0] == 200
        assert (await daemon.get("/metrics"))[0] == 404
