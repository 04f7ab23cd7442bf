"""``make unit-check``: a Debian with systemd, booted as a container, that runs the unit as its comment says.

What ``systemd-analyze`` cannot tell: that the exporter works under all that the unit forbids, that the secret arrives,
that reload and stop do what they should. systemd-nspawn boots it, with a loopback of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deploy.image import ROOT, output, without_unified_cgroups

UNIT = "vmss-upgrade-exporter.service"
SECRET = "vmss-upgrade-exporter.client-secret"
PACKAGES = "ca-certificates,dbus,procps,python3,python3-venv,systemd,systemd-sysv"
PROGRAM = "/opt/vmss-upgrade-exporter/bin/vmss-upgrade-exporter"
SCALE_SETS = 12

SIMULATOR = f"""\
[Unit]
Before={UNIT}
[Service]
ExecStart={PROGRAM} simulate --simulator.listen-address=127.0.0.1:9900 \
--simulator.config-out=/etc/vmss-upgrade-exporter/config.yaml
ExecStartPost=sh -c 'until test -s /etc/vmss-upgrade-exporter/config.yaml; do sleep 0.1; done'
"""

DROP_IN = """\
[Unit]
Requires=simulator.service
[Service]
Environment=IDENTITY_ENDPOINT=http://127.0.0.1:9900/token IDENTITY_HEADER=simulator
# Shorter than the unit's, so that the examination need not wait long for it.
WatchdogSec=10s
"""

EXAMINATION = f"""\
[Unit]
Wants={UNIT}
After={UNIT}
[Service]
Type=oneshot
ExecStart=-sh -eux /root/examine
ExecStopPost=journalctl --unit={UNIT} --lines=30
ExecStopPost=systemctl poweroff --no-block
StandardOutput=file:/root/log
StandardError=file:/root/log
"""

EXAMINE = f"""\
# It is started, which is why this runs: so it listens.
/opt/vmss-upgrade-exporter/bin/python -c 'from urllib.request import urlopen as get
print(get("http://127.0.0.1:9847/-/healthy").read().decode())' >/root/healthy
metrics() {{ /opt/vmss-upgrade-exporter/bin/python -c 'from urllib.request import urlopen as get
print(get("http://127.0.0.1:9847/metrics").read().decode())'; }}
for second in 1 2 3 4 5 6 7 8 9 10; do
    metrics >/root/metrics || true
    test "$(grep -c '^azure_vmss_os_upgrade_up.* 1.0$' /root/metrics)" != {SCALE_SETS} || break
    sleep 1
done
pid=$(systemctl show --property=MainPID --value {UNIT})
cp /proc/$pid/status /root/status
stat --format='%a %U' /run/credentials/{UNIT}/{SECRET} >/root/secret
cmp /run/credentials/{UNIT}/{SECRET} /etc/credstore/{SECRET}
systemctl reload {UNIT}
sleep 1
systemctl is-active {UNIT}
sleep 12
systemctl show --property=MainPID,NRestarts {UNIT} >/root/watched
test "$(systemctl show --property=MainPID --value {UNIT})" = "$pid"
kill -STOP "$pid"
for second in $(seq 60); do
    sleep 1
    test "$(systemctl show --property=NRestarts --value {UNIT})" != 1 || break
done
for second in 1 2 3 4 5 6 7 8 9 10; do
    ! systemctl is-active {UNIT} || break
    sleep 1
done
systemctl show --property=ActiveState,NRestarts {UNIT} >/root/restarted
systemctl stop {UNIT}
systemctl show --property=Result,ExecMainStatus {UNIT} >/root/stopped
systemctl start --no-block {UNIT}
sleep 0.3
systemctl stop {UNIT}
systemctl show --property=Result,ActiveState {UNIT} >/root/stopped-early
rm /etc/credstore/{SECRET}
systemctl start {UNIT}
echo nonsense >/etc/vmss-upgrade-exporter/config.yaml
systemctl restart {UNIT} || true
sleep 7
systemctl show --property=ActiveState,ExecMainStatus,NRestarts {UNIT} >/root/refused
touch /root/done
"""


def main() -> None:
    without_unified_cgroups()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        machine = Path(folder, "machine")
        print("a Debian with systemd", flush=True)
        output("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "trixie", machine)
        print("the exporter, as the unit's comment says", flush=True)
        install(machine)
        print("boot", flush=True)
        boot = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--boot",
            f"--directory={machine}",
        ]
        done = subprocess.run(boot, check=False, capture_output=True, text=True, timeout=120)
        root = machine / "root"
        if not (root / "done").exists():
            log = (root / "log").read_text() if (root / "log").exists() else done.stdout
            sys.exit(log[-5000:])
        look_at(root)
    print("unit-check passed")


def install(machine: Path) -> None:
    source = machine / "source"
    source.mkdir()
    for name in ("LICENSE", "README.md", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "exporter", source / "exporter")
    shutil.copy("/etc/hosts", machine / "etc/hosts")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", source / "of-the-machine.crt")
    commands = re.findall(
        r"^#   ((?:python3|/opt/\S+) .*)$", (ROOT / "deploy/systemd" / UNIT).read_text(), re.MULTILINE
    )
    assert len(commands) == 3, commands
    environment = {"PATH": os.environ["PATH"], "PIP_CERT": "/source/of-the-machine.crt"}
    for command in commands:
        shell = ["chroot", str(machine), "sh", "-euc", f"cd /source; {command}"]
        done = subprocess.run(shell, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)

    units = machine / "etc/systemd/system"
    shutil.copy(ROOT / "deploy/systemd" / UNIT, units)
    (units / "simulator.service").write_text(SIMULATOR)
    (units / f"{UNIT}.d").mkdir()
    (units / f"{UNIT}.d/simulator.conf").write_text(DROP_IN)
    (units / "examination.service").write_text(EXAMINATION)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/examination.service").symlink_to("../examination.service")
    (machine / "etc/vmss-upgrade-exporter").mkdir()
    (machine / "etc/credstore").mkdir(exist_ok=True)
    secret = machine / "etc/credstore" / SECRET
    secret.touch(0o600)
    secret.write_text("a secret\n")
    (machine / "root/examine").write_text(EXAMINE)


def look_at(root: Path) -> None:
    """Raise where what the examination found is not what the unit promises."""
    metrics = (root / "metrics").read_text()
    status = dict(line.split(":\t", 1) for line in (root / "status").read_text().splitlines())
    user = int(status["Uid"].split()[0])
    print(json.dumps({name: status[name] for name in ("Uid", "CapBnd", "NoNewPrivs", "Seccomp")}))
    assert len(re.findall(r"^azure_vmss_os_upgrade_up\{.*\} 1\.0$", metrics, re.MULTILINE)) == SCALE_SETS
    assert 61184 <= user <= 65519, "DynamicUser= has its range"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    started = re.search(r"^process_start_time_seconds (\S+)$", metrics, re.MULTILINE)
    assert started is not None, "/proc is hidden too well"
    assert float(started[1]) > 1.7e9
    print("the secret:", (root / "secret").read_text().strip())
    assert (root / "secret").read_text().split()[0] in {"400", "440"}
    assert (root / "healthy").read_text().strip() == "Healthy"
    assert properties(root / "watched")["NRestarts"] == "0", "it told the watchdog that it is alive"
    assert properties(root / "restarted") == {"ActiveState": "active", "NRestarts": "1"}
    assert properties(root / "stopped-early") == {"Result": "success", "ActiveState": "inactive"}
    assert properties(root / "stopped") == {"Result": "success", "ExecMainStatus": "0"}
    assert properties(root / "refused") == {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}


def properties(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


if __name__ == "__main__":
    main()
