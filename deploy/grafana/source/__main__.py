"""Writes the dashboards anew: ``python -m deploy.grafana.source`` (``make dashboards``)."""

import json
from pathlib import Path

from deploy.grafana.source.exporter import exporter
from deploy.grafana.source.fleet import fleet
from deploy.grafana.source.panels import Json
from deploy.grafana.source.scale_set import scale_set

FOLDER = Path(__file__).parents[1] / "dashboards"
DASHBOARDS = {"fleet": fleet, "scale-set": scale_set, "exporter": exporter}


def written(dashboard: Json) -> str:
    """Return the text of a dashboard's file."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, made in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(written(made()))
