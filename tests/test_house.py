"""The house: imports go one way, and each third-party library has one home."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "exporter"

LAYERS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"backfill", "live"},
    {"once"},
    {"daemon", "simulator.server"},
    {"poller", "recorder", "schedule", "searcher", "simulator.wire", "web"},
    {"exposition", "gate", "listener", "simulator.fleet", "simulator.graph", "status"},
    {"discovery", "drawing", "journal", "moments", "selection", "store"},
    {"azure.client", "banners", "families"},
    {"azure.credential", "azure.turns"},
    {"azure.connector", "azure.identity", "azure.json_pages"},
    {"azure.budget", "azure.errors", "config", "telemetry", "web_config"},
    {
        "azure.clouds",
        "azure.proxy",
        "basic_auth",
        "connections",
        "duration",
        "plan",
        "service_manager",
        "settings",
        "snapshot",
    },
    {"document", "error_log", "history", "journal_file", "pace", "tls", "wall_clock"},
    {"log"},
    {
        "address",
        "garbage_collector",
        "label_limits",
        "log_writer",
        "redaction",
        "scale_set",
        "signals",
        "slices",
    },
)
"""Who stands higher may import who stands lower, and nobody else."""

HOMES = {
    "aiohttp": {"azure.client", "azure.connector", "simulator.server", "web"},
    "apscheduler": {"schedule"},
    "azure": {"azure.identity"},
    "bcrypt": {"basic_auth"},
    "isal": {"exposition"},
    "jinja2": {"status"},
    "prometheus_client": {"exposition", "families", "telemetry"},
    "pydantic": {"config", "settings", "web_config"},
    "pydantic_core": {"config", "settings"},
    "stamina": {"azure.client"},
    "yaml": {"config", "document"},
    "yarl": {"azure.client"},
}
"""Where each third-party library is used; whoever replaces one has this list to go through."""


def modules() -> dict[str, Path]:
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts): path for name, path in paths.items() if name.name != "__init__"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_imports(path: Path) -> set[str]:
    names = {name.removeprefix("exporter.") for name in imports(path) if name.startswith("exporter.")}
    return names & set(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module: str):
    (height,) = (index for index, layer in enumerate(LAYERS) if module in layer)
    allowed = set().union(*LAYERS[height + 1 :])
    if module.startswith("simulator."):
        allowed &= {
            "scale_set",
            "simulator.fleet",
            "simulator.graph",
            "simulator.wire",
        }  # a fake that shares our misreadings proves nothing
    assert own_imports(modules()[module]) <= allowed


def test_sqlite_is_spoken_to_in_one_place():
    assert [name for name, path in modules().items() if "sqlite3" in imports(path)] == ["journal_file"]


@pytest.mark.parametrize("library", HOMES)
def test_a_third_party_library_has_its_home(library: str):
    users = {
        module
        for module, path in modules().items()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert users == HOMES[library]


def test_no_other_third_party_library_is_used():
    roots = {name.split(".")[0] for path in modules().values() for name in imports(path)}
    assert roots - set(sys.stdlib_module_names) - {"exporter"} == set(HOMES)
