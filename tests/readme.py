"""The README's tables of metrics, generated: ``python -m tests.readme`` (``make readme``) writes them anew."""

from collections.abc import Iterable
from pathlib import Path

from exporter.families import FAMILIES, JOURNAL_FAMILIES
from exporter.telemetry import PREFIX, Telemetry

README = Path(__file__).parents[1] / "README.md"


def tables() -> dict[str, str]:
    """Return each generated part by the name that its markers bear."""
    return {"families": _families(), "telemetry": _telemetry()}


def current(text: str) -> str:
    """Return a README with its generated parts written anew."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + table + end + after
    return text


def _families() -> str:
    rows = []
    for family in FAMILIES + JOURNAL_FAMILIES:
        labels = [*family.labels, *(["label_*", "tag_*"] if family.own_labels else [])]
        rows.append((f"`{family.name}`", ", ".join(f"`{label}`" for label in labels), family.help))
    return _table(("family", "further labels", "value"), rows)


def _telemetry() -> str:
    rows = []
    for family in Telemetry().registry.collect():
        if family.name.startswith(PREFIX):
            suffix = "_total" if family.type == "counter" else ""
            rows.append((f"`{family.name}{suffix}`", family.type, family.documentation))
    return _table(("family", "type", "value"), rows)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
