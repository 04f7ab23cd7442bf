"""Resource Graph's answers to queries about the simulated scale sets, as far as its language is needed.

``resources``, then any of ``where COLUMN =~ 'TEXT'`` (or ``==``), ``project COLUMN, NAME = COLUMN.FIELD``, ``order by
COLUMN [asc|desc]`` and ``count``; anything else is refused, as Resource Graph refuses what it does not understand.
Pure; must not know HTTP, nor who asks.
"""

import re
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]


class InvalidQuery(Exception):
    """Resource Graph cannot make sense of it."""


def run(query: str, resources: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that answer a query."""
    table, *operators = (part.strip() for part in query.split("|"))
    if table.lower() != "resources":
        raise InvalidQuery(table)
    rows = resources
    for operator in operators:
        rows = _apply(operator, rows)
    return rows


def _apply(operator: str, rows: Sequence[Row]) -> Sequence[Row]:
    if match := _WHERE.fullmatch(operator):
        column, comparison, text = match.groups()
        fold = str.lower if comparison == "=~" else str
        return [row for row in rows if fold(str(_read(row, column))) == fold(text)]
    if match := _PROJECT.fullmatch(operator):
        columns = [_COLUMN.fullmatch(column.strip()) for column in match[1].split(",")]
        named = [(column[1] or column[2].replace(".", "_"), column[2]) for column in columns if column]
        if len(named) < len(columns):
            raise InvalidQuery(operator)
        return [{name: _read(row, path) for name, path in named} for row in rows]
    if match := _ORDER.fullmatch(operator):
        column, direction = match.groups()
        return sorted(rows, key=lambda row: str(_read(row, column)), reverse=direction != "asc")
    if operator == "count":
        return [{"Count": len(rows)}]
    raise InvalidQuery(operator)


_WHERE = re.compile(r"where\s+([\w.]+)\s*(=~|==)\s*'([^']*)'")
_PROJECT = re.compile(r"project\s+(.+)", re.DOTALL)
_COLUMN = re.compile(r"(?:(\w+)\s*=\s*)?([\w.]+)")
_ORDER = re.compile(r"order\s+by\s+([\w.]+)(?:\s+(asc|desc))?")
"""Kusto sorts downwards unless told otherwise."""


def _read(row: Row, path: str) -> object:
    """Read a column or, along dots, a field of it; what is not there is null."""
    value: object = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
