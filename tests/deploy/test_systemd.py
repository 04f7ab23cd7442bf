"""The systemd unit, as systemd's own tools see it."""

import re
import subprocess
from pathlib import Path

from tests.processes import debian_program

UNIT = Path(__file__).parents[2] / "deploy/systemd/vmss-upgrade-exporter.service"
MOST_EXPOSURE = 2.5


def test_systemd_finds_no_fault(tmp_path: Path):
    # The program that the unit starts need not be on this machine.
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    done = analyze("verify", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_setting_that_systemd_does_not_know_would_be_seen(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "PrivateTemp" in analyze("verify", unit).stderr


def test_it_is_exposed_to_little():
    threshold = int(MOST_EXPOSURE * 10)
    done = analyze("security", "--offline=yes", f"--threshold={threshold}", "--no-pager", UNIT)
    assert done.returncode == 0, done.stdout
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= MOST_EXPOSURE


def test_a_loosened_unit_would_be_seen(tmp_path: Path):
    unit = tmp_path / UNIT.name
    unit.write_text(
        re.sub(r"^(Protect|Restrict|SystemCall|Capab|Private).*\n", "", UNIT.read_text(), flags=re.MULTILINE)
    )
    assert analyze("security", "--offline=yes", "--threshold=25", "--no-pager", unit).returncode != 0


def test_the_secrets_come_by_load_credential():
    text = UNIT.read_text()
    loaded = set(re.findall(r"^LoadCredential=(\S+)$", text, re.MULTILINE))
    named = set(re.findall(r"/run/credentials/vmss-upgrade-exporter\.service/(\S+)", text))
    assert named
    assert named <= loaded


def test_it_starts_after_the_clock_was_set_but_demands_no_ntp_client():
    settings = re.findall(r"^(After|Wants|Requires)=(.*)$", UNIT.read_text(), re.MULTILINE)
    targets = {(name, target) for name, value in settings for target in value.split()}
    assert ("After", "time-sync.target") in targets
    assert not {("Wants", "time-sync.target"), ("Requires", "time-sync.target")} & targets


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [debian_program("systemd-analyze"), *arguments], check=False, capture_output=True, text=True
    )


def test_it_is_started_once_it_says_so_and_restarted_when_it_says_nothing():
    settings = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w+=", line)
    )
    assert settings["Type"] == "notify"
    assert settings["NotifyAccess"] == "main"
    assert settings["WatchdogSec"] == "60s"
    assert settings["ExecReload"] == "kill -HUP $MAINPID"
    # SIGHUP in the hundredth of a second before Python runs ends it, and systemd takes that for a clean end.
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "2"
