"""What all dashboards share: colours, selectors, kinds of panels, and how panels are laid out.

Knows Grafana's JSON and nothing of what is shown. A panel is made without a place; ``dashboard`` gives it one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]

WIDTH = 24
"""Grafana's grid has so many columns."""
TAG = "azure-vmss-os-upgrade"
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
IDENTITY = "subscription_id, resource_group, scale_set"

BLUE, ORANGE, GREEN, RED, PURPLE = "blue", "orange", "green", "red", "purple"
GREY, PALE = "#8e8e8e", "#c7d0d9"
STATES = {
    "RollingForward": BLUE,
    "RollingBack": ORANGE,
    "Completed": GREEN,
    "Cancelled": GREY,
    "Faulted": RED,
    "Unknown": PURPLE,
}
"""Each state with its colour, the same everywhere. Its number, for panels that want one, counts from 1."""
NEVER = "never upgraded"
"""The state 0."""
INSTANCES = {"successful": GREEN, "in_progress": BLUE, "pending": PALE, "failed": RED}

ANY = 'subscription_id=~"$subscription", resource_group=~"$resource_group", scale_set=~"$scale_set"'
"""Selects the scale sets of variables that may hold several."""
ONE = 'subscription_id="$subscription", resource_group="$resource_group", scale_set="$scale_set"'
"""Selects the scale set of variables that hold one."""


# --- Queries -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """What a panel asks Prometheus."""

    expr: str
    legend: str = ""
    instant: bool = False
    """Whether it asks for now only, instead of the whole range of time."""
    table: bool = False
    """Whether labels become columns, instead of the name of a series."""

    def target(self, index: int) -> Json:
        """Return Grafana's form, with the letter that overrides and transformations call it by."""
        return {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": "table" if self.table else "time_series",
            "instant": self.instant,
            "range": not self.instant,
            "legendFormat": self.legend,
        }


def each(family: str, select: str, *labels: str) -> str:
    """Return the expression of a family about scale sets, once for each even while two shards know it."""
    return f"max by ({', '.join((IDENTITY, *labels))}) (azure_vmss_os_upgrade_{family}{{{select}}})"


def only(select: str, **labels: str) -> str:
    """Narrow a selector down to labels of these values."""
    return ", ".join((select, *(f'{label}="{value}"' for label, value in labels.items())))


def matching(condition: str) -> str:
    """Return what keeps of an expression before it the scale sets that meet a condition."""
    return f" and on ({IDENTITY}) ({condition})"


def in_state(select: str, *states: str) -> str:
    """Return the expression of the scale sets whose latest upgrade is in one of the states."""
    return each("state", f'{select}, state=~"{"|".join(states)}"', "state") + " == 1"


def state_number(select: str) -> str:
    """Return the expression of the state as its number, exporter by exporter before it is merged."""
    terms = (
        f"{number} * azure_vmss_os_upgrade_state{{{only(select, state=state)}}}"
        for number, state in enumerate(STATES, start=1)
    )
    return f"max by ({IDENTITY}) ({' + ignoring (state) '.join(terms)})"


def with_image(select: str) -> str:
    """Return the expression of ``info`` with one label for all kinds of images: its version, and what it is.

    The version comes first, for a long label is cut at its end.
    """
    ids = ("image_id", "shared_gallery_image_id", "community_gallery_image_id")
    named = each("info", select, "sku", "exact_version", "version", *ids)
    versions = f'label_join({named}, "versions", ";", "exact_version", "version")'
    either = f'label_replace({versions}, "of_image", "$1", "versions", ";?([^;]+).*")'
    marketplace = f'label_join({either}, "image", " ", "of_image", "sku")'
    quoted = ", ".join(f'"{name}"' for name in ids)
    gallery = f'label_join({marketplace}, "gallery", "", {quoted})'
    version = '"image", "$2 $1", "gallery", "(?i).*/images/([^/]+)/versions/([^/]+)"'
    return f"max by ({IDENTITY}, image) (label_replace({gallery}, {version}))"


# --- How fields look ---------------------------------------------------------------------------------------


def coloured(name: str, colour: str) -> Json:
    """Give the series of this name its colour."""
    return override(name, color={"mode": "fixed", "fixedColor": colour})


def override(name: str, **properties: object) -> Json:
    """Set properties of the field of this name; ``custom__width`` is ``custom.width``."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def of_states() -> list[Json]:
    """Give series that are named by states their colours."""
    return [coloured(state, colour) for state, colour in STATES.items()]


def of_instances() -> list[Json]:
    """Give series that are named by states of instances their colours."""
    return [coloured(state, colour) for state, colour in INSTANCES.items()]


def mapped(texts: dict[int, tuple[str, str]]) -> list[Json]:
    """Show numbers as texts in colours."""
    options = {
        str(number): {"index": index, "text": text, "color": colour}
        for index, (number, (text, colour)) in enumerate(texts.items())
    }
    return [{"type": "value", "options": options}]


STATE_NUMBERS = mapped(
    {0: (NEVER, PALE)}
    | {number: (state, colour) for number, (state, colour) in enumerate(STATES.items(), start=1)}
)


def thresholds(*steps: tuple[float, str], base: str = GREEN) -> Json:
    """Colour by value: ``base`` below the first step."""
    bounds: list[tuple[float | None, str]] = [(None, base), *steps]
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in bounds]}


PLAIN = thresholds(base="text")
TO_SCALE_SET = {
    "title": "Show this scale set",
    "url": "/d/vmss-upgrade-scale-set?${datasource:queryparam}&${__url_time_range}"
    "&var-subscription=${__data.fields.subscription_id}&var-resource_group=${__data.fields.resource_group}"
    "&var-scale_set=${__data.fields.scale_set}",
}
"""From a row of a table."""
TO_SCALE_SET_OF_SERIES = TO_SCALE_SET | {
    "url": TO_SCALE_SET["url"].replace("__data.fields", "__field.labels"),
}


# --- Kinds of panels ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel without a place."""

    title: str
    kind: str
    queries: tuple[Query, ...] = ()
    width: int = WIDTH
    height: int = 1
    description: str = ""
    options: Json | None = None
    defaults: Json | None = None
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()
    points: int | None = None
    """How many points in time it asks for at most; as many as it is wide, unless said."""

    def placed(self, number: int, x: int, y: int) -> Json:
        """Return Grafana's form."""
        place = {"h": self.height, "w": self.width, "x": x, "y": y}
        panel: Json = {"id": number, "type": self.kind, "title": self.title, "gridPos": place}
        if self.kind == "row":
            return panel | {"collapsed": False, "panels": []}
        panel |= {
            "description": self.description,
            "datasource": DATASOURCE,
            "targets": [query.target(index) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self.defaults or {}, "overrides": list(self.overrides)},
            "options": self.options or {},
            "transformations": list(self.transformations),
        }
        return panel if self.points is None else panel | {"maxDataPoints": self.points}


def row(title: str) -> Panel:
    """Return the heading of the panels that follow."""
    return Panel(title, "row")


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_TOOLTIP = {"mode": "multi", "sort": "desc"}


def stat(
    title: str,
    *queries: Query,
    unit: str,
    width: int = 4,
    colours: Json = PLAIN,
    mappings: Sequence[Json] = (),
    overrides: Sequence[Json] = (),
    background: bool = False,
    name_only: bool = False,
    description: str = "",
    nothing: str = "-",
    links: Sequence[Json] = (),
) -> Panel:
    """Return big numbers, those of now."""
    options = {
        "colorMode": "background" if background else "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "vertical",
        "reduceOptions": _LAST,
        "textMode": "name" if name_only else "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    defaults = {
        "unit": unit,
        "color": {"mode": "thresholds"},
        "thresholds": colours,
        "mappings": list(mappings),
        "noValue": nothing,
        "links": list(links),
    }
    asked = tuple(replace(query, instant=True) for query in queries)
    return Panel(title, "stat", asked, width, 4, description, options, defaults, overrides)


def chart(
    title: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    logarithmic: bool = False,
    legend_beside: bool = False,
    overrides: Sequence[Json] = (),
    description: str = "",
) -> Panel:
    """Return lines through time, or areas on top of each other; a legend of many names belongs beside them."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1 if stacked else 2,
        "fillOpacity": 70 if stacked else 8,
        "lineInterpolation": "stepAfter" if stacked else "linear",
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if logarithmic else {"type": "linear"},
        "axisPlacement": "auto",
    }
    defaults: Json = {
        "unit": unit,
        "color": {"mode": "palette-classic"},
        "custom": custom,
    }
    if not logarithmic:
        defaults["min"] = 0
    legend: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    if legend_beside:
        legend |= {
            "displayMode": "table",
            "placement": "right",
            "calcs": ["lastNotNull"],
            "sortBy": "Last *",
            "sortDesc": True,
        }
    options = {"legend": legend, "tooltip": _TOOLTIP}
    return Panel(title, "timeseries", queries, width, height, description, options, defaults, overrides)


def timeline(
    title: str,
    *queries: Query,
    mappings: Sequence[Json],
    width: int = WIDTH,
    height: int = 8,
    description: str = "",
    nothing: str = "Nothing.",
    links: Sequence[Json] = (),
) -> Panel:
    """Return a bar for each series, coloured by its value at each time."""
    options = {
        "alignValue": "left",
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "perPage": 20,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {
        "unit": "none",
        "color": {"mode": "thresholds"},
        "thresholds": PLAIN,
        "mappings": list(mappings),
        "noValue": nothing,
        "custom": {"fillOpacity": 80, "lineWidth": 0},
        "links": list(links),
    }
    return Panel(title, "state-timeline", queries, width, height, description, options, defaults, points=300)


def bars(
    title: str,
    *queries: Query,
    unit: str,
    width: int = 12,
    height: int = 9,
    decimals: int = 0,
    colours: Json = PLAIN,
    overrides: Sequence[Json] = (),
    description: str = "",
    links: Sequence[Json] = (),
) -> Panel:
    """Return a bar for each series, as long as its value now."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": _LAST,
        "showUnfilled": True,
        "valueMode": "text",
        "namePlacement": "left",
        "sizing": "manual",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 20,
        "text": {"titleSize": 12, "valueSize": 14},
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
    }
    defaults = {
        "unit": unit,
        "decimals": decimals,
        "min": 0,
        "color": {"mode": "thresholds"},
        "thresholds": colours,
        "links": list(links),
    }
    asked = tuple(replace(query, instant=True) for query in queries)
    return Panel(title, "bargauge", asked, width, height, description, options, defaults, overrides)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: a label, or the value of a query (``Value #B``)."""

    field: str
    name: str
    width: int | None = None
    unit: str = ""
    bar: str = ""
    """The colour of a bar in each cell, from 0 to 1."""
    mappings: Sequence[Json] = ()
    link: bool = False
    hidden: bool = False
    """Whether it is only there to be named in a link."""

    def look(self) -> Json:
        """Return how its cells look."""
        properties: Json = {"noValue": "-"}
        if self.width is not None:
            properties["custom.width"] = self.width
        if self.unit:
            properties["unit"] = self.unit
        if self.bar:
            properties |= {
                "min": 0,
                "max": 1,
                "custom.cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                "color": {"mode": "fixed", "fixedColor": self.bar},
            }
        if self.mappings:
            properties |= {
                "mappings": list(self.mappings),
                "custom.cellOptions": {"type": "color-background", "mode": "basic"},
            }
        if self.hidden:  # the older and the newer way
            properties |= {
                "custom.hidden": True,
                "custom.hideFrom": {"legend": False, "tooltip": False, "viz": True},
            }
        if self.link:
            properties["links"] = [TO_SCALE_SET]
        return override(self.name, **properties)


WHICH = (
    Column("scale_set", "Scale set", 165, link=True),
    Column("resource_group", "Resource group", 125),
)
SUBSCRIPTION = Column("subscription_id", "Subscription", 300)
"""These columns say which scale set it is."""


def table(
    title: str,
    *queries: Query,
    columns: Sequence[Column],
    also: Sequence[str] = (),
    sort_by: str = "",
    width: int = WIDTH,
    height: int = 8,
    description: str = "",
    nothing: str = "None.",
) -> Panel:
    """Return a row for each scale set, put together of what all queries say about it.

    Shown are ``columns`` and, as they come, those that one of the patterns ``also`` matches.
    """
    names = {column.field: column.name for column in columns}
    shown = f"^({'|'.join((*names, *also))})$"
    order = {field: index for index, field in enumerate(names)}
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"pattern": shown}}},
        {"id": "organize", "options": {"excludeByName": {}, "indexByName": order, "renameByName": names}},
    ]
    options = {
        "frameIndex": 0,
        "showHeader": True,
        "cellHeight": "sm",
        "sortBy": [{"displayName": sort_by, "desc": True}] if sort_by else [],
    }
    defaults = {
        "unit": "none",
        "color": {"mode": "thresholds"},
        "thresholds": PLAIN,
        "noValue": nothing,
        "custom": {"align": "left", "cellOptions": {"type": "auto"}, "filterable": False},
    }
    asked = tuple(replace(query, instant=True, table=True) for query in queries)
    looks = [column.look() for column in columns]
    return Panel(title, "table", asked, width, height, description, options, defaults, looks, transformations)


# --- Variables and dashboards ------------------------------------------------------------------------------


def choice(name: str, label: str, values: str, *, several: bool) -> Json:
    """Return a variable that takes values of a label; of ``several``, all are taken at first."""
    variable: Json = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": values, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
        "hide": 0,
        "options": [],
    }
    if several:
        variable |= {"allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return variable


def of_scale_sets(*, several: bool) -> list[Json]:
    """Return the variables that say which scale sets to show, each within what those before it say."""
    is_like = "=~" if several else "="
    variables, within = [], ""
    for name, label, title in (
        ("subscription", "subscription_id", "Subscription"),
        ("resource_group", "resource_group", "Resource group"),
        ("scale_set", "scale_set", "Scale set"),
    ):
        values = f"label_values(azure_vmss_os_upgrade_scale_set_info{{{within}}}, {label})"
        variables.append(choice(name, title, values, several=several))
        within += f'{", " if within else ""}{label}{is_like}"${name}"'
    return variables


def dashboard(
    *, uid: str, title: str, description: str, variables: Iterable[Json], panels: Iterable[Panel], since: str
) -> Json:
    """Lay the panels out, line by line from left to right, and return Grafana's JSON."""
    datasource: Json = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    link: Json = {
        "title": "OS upgrades",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "timezone": "browser",
        "time": {"from": f"now-{since}", "to": "now"},
        "links": [link],
        "templating": {"list": [datasource, *variables]},
        "panels": list(_laid_out(panels)),
    }


def _laid_out(panels: Iterable[Panel]) -> Iterable[Json]:
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        yield panel.placed(number, x, y)
        x, height = x + panel.width, max(height, panel.height)
