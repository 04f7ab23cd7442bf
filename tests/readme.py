"""The README's tables of metrics, generated: ``python -m tests.readme`` (``make readme``) writes them anew."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

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
    registry = Telemetry().registry
    for family in registry.collect():
        if family.name.startswith(PREFIX):
            collector = registry._names_to_collectors[family.name]  # noqa: SLF001 - what is collected may have no sample
            assert isinstance(collector, MetricWrapperBase)
            labels = collector._labelnames  # noqa: SLF001
            suffix = "_total" if family.type == "counter" else ""
            shown = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{family.name}{suffix}`", family.type, shown, family.documentation))
    return _table(("family", "type", "labels", "value"), rows)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    README.write_text(current(README.read_text()))
