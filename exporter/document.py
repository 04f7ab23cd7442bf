"""A YAML file, read so that every value keeps its line.

The file is read by its events. A scalar stays the text that stands there, as only the setting it belongs to knows
its type: ``name: 007``, ``team: 1.10``, ``env: on`` and ``interval: 1:30`` do not turn into 7, 1.1, true and 90. An
empty value, ``~`` and ``null`` are ``None``. Aliases, tags and a second document are refused: no setting needs them,
some are attacks. Knows nothing of settings.
"""

import json
import re
from typing import Final, NamedTuple, TypeAlias

import yaml

Location: TypeAlias = tuple[int | str, ...]
Yaml: TypeAlias = "str | list[Yaml] | dict[str, Yaml] | None"

_DEEPEST: Final = 16
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_YAML_TAG: Final = "tag:yaml.org,2002:"
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# libyaml, where it is, takes a fifth of the time.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


_LONGEST_SHOWN: Final = 60


def shown(given: object) -> str:
    """Return a value as a fault quotes it."""
    match given:
        case str():
            text = given if len(given) <= _LONGEST_SHOWN else f"{given[: _LONGEST_SHOWN - 1]}…"
            return json.dumps(text, ensure_ascii=not text.isprintable())
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "nothing" if given is None else str(given)


class Fault(NamedTuple):
    """One thing that is wrong: the line, the path, and what; ``str()`` is ``14: polling.interval: must be ...``."""

    line: int
    where: Location
    what: str

    def __str__(self) -> str:
        path = ""
        for step in self.where:
            plain = isinstance(step, str) and re.fullmatch(r"[\w-]+", step, re.ASCII)
            path += f".{step}" if plain else f"[{shown(step)}]"
        return ": ".join(part for part in (str(self.line), path.removeprefix("."), self.what) if part)


class Document:
    """The text, lists and mappings of a YAML file, the line of each, and the faults of its form.

    Raises yaml.YAMLError for what is no YAML, or more of it than we take.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Location, int] = {}
        self.faults: list[Fault] = []
        self._events = yaml.parse(text, Loader=_LOADER)
        self.root = self._root()

    def line(self, where: Location) -> int:
        """Return the line of a setting or, where it is absent, of what it is missing from."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def _root(self) -> Yaml:
        next(self._events)  # the stream starts
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        root = self._value(next(self._events), ())
        next(self._events)  # the document ends
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise _refusal(event, "a second document")
        return root

    def _value(self, event: yaml.Event, where: Location) -> Yaml:
        self.lines.setdefault(where, _line(event))
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, f"the alias *{event.anchor}")
        if len(where) > _DEEPEST:
            raise _refusal(event, f"nesting beyond {_DEEPEST} levels")
        if isinstance(event, yaml.CollectionStartEvent | yaml.ScalarEvent) and event.tag not in (None, "!"):
            self._fault(event, where, f"must be without the YAML tag {event.tag.replace(_YAML_TAG, '!!')}")
        if not isinstance(event, yaml.ScalarEvent):
            return self._list(where) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(where)
        if event.implicit[0] and event.value in _NULLS:
            return None
        if _CONTROL_CHARACTER.search(event.value):
            self._fault(event, where, "must be one line without control characters")
        return event.value

    def _list(self, where: Location) -> list[Yaml]:
        items: list[Yaml] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*where, len(items))))
        return items

    def _mapping(self, where: Location) -> dict[str, Yaml]:
        mapping: dict[str, Yaml] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._aside(event, where)
            if not isinstance(key, str):
                self._fault(event, where, f"must have text for keys, not {shown(key)}")
                self._aside(next(self._events), where)
            elif key in mapping:
                self._fault(event, (*where, key), f"is given twice, first on line {self.lines[*where, key]}")
                self._aside(next(self._events), (*where, key))
            else:
                self.lines[*where, key] = _line(event)
                mapping[key] = self._value(next(self._events), (*where, key))
        return mapping

    def _aside(self, event: yaml.Event, where: Location) -> Yaml:
        """Read what has no place of its own in the document: a key, or a value that stands there already."""
        noted, self.lines = self.lines, {}
        value = self._value(event, where)
        self.lines = noted
        return value

    def _fault(self, event: yaml.Event, where: Location, what: str) -> None:
        self.faults.append(Fault(_line(event), where, what))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _refusal(event: yaml.Event, what: str) -> yaml.MarkedYAMLError:
    # The stubs do not know libyaml's marks here.
    return yaml.MarkedYAMLError(problem=f"{what} is not supported", problem_mark=event.start_mark)  # type: ignore[arg-type]


def parse(raw: bytes) -> Document | Fault:
    """Read a YAML file; a fault is what ends the reading."""
    try:
        document = Document(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line, what = raw.count(b"\n", 0, error.start) + 1, "is not UTF-8"
    except yaml.reader.ReaderError as error:
        line, what = raw.count(b"\n", 0, error.position) + 1, "must not hold control characters"
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = " ".join(part for part in ("YAML:", error.problem, error.context) if part)
    except (ValueError, OverflowError) as error:  # without libyaml: an escape beyond Unicode
        line, what = 1, f"YAML: {error}"
    else:
        return document
    return Fault(line, (), what)
