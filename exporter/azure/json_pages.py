"""Decodes the JSON pages of one call step by step, within limits on what they hold.

An answer is an object, one member of which is the list of all that was asked for. Its entries are decoded one at a
time, so that neither a large page nor a hostile one keeps the event loop for long: decoding cannot be interrupted, it
takes up to half a microsecond for each mark of punctuation, and every second byte may be one. Pure; knows nothing of
requests, nor of what an entry means.
"""

import codecs
import json
import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NoReturn

WINDOW = 64 * 1024
"""Bytes that are taken up at a time."""
MAX_VALUE = 2 * 1024 * 1024
"""Maximum characters of an entry; the largest real one holds the errors of 1,000 instances."""
MAX_MARKS = 75_000
"""Maximum marks of punctuation in an entry that is larger than a window, and what follows in the same window: two for each key."""
MAX_MEMBERS = 32
"""Maximum members of a page; Azure's have at most six."""
MAX_DIGITS = 20
"""Maximum digits of a whole number: reading takes a time that grows with their square, and no count has so many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What all pages of a call may hold together."""

    total_bytes: int
    """As decoded, so that a small gzip does not become a large page."""
    entries: int
    entries_a_page: int
    marks: int | None = None
    """Marks of punctuation in all entries, which bound the memory of entries that are kept as they are."""
    pages: int = 100


class TooMuch(ValueError):
    """The pages hold more than the limits allow; ``str()`` says what."""


class JsonPages:
    """The pages of one call, and how much they have held so far.

    ``entries`` is the name of the list. ``keep`` is called with each of its entries; what it returns takes the place
    of the entry. Other members that are objects or lists come out empty, as nothing reads them.
    """

    def __init__(self, entries: str, limits: Limits, keep: Callable[[object], object] | None = None) -> None:
        self.limits = limits
        self.bytes_left = limits.total_bytes
        self._name = entries
        self._keep = keep
        self._entries = 0
        self._marks = 0

    def decode(
        self, body: bytes | bytearray, hide: Callable[[object], object] | None = None
    ) -> Generator[None, None, object]:
        """Decode the next page, yielding after each step; ``hide`` is applied to each decoded value.

        Raises:
            TooMuch: the pages exceed the limits.
            ValueError: the page is not JSON in UTF-8.
            RecursionError: it is nested too deep.

        """
        self.bytes_left -= len(body)
        text = _Text(body, hide)
        if (yield from text.peek()) == "{":
            document: object = yield from self._object(text)
        else:
            document = _emptied((yield from text.value()))
        if (yield from text.peek()):
            raise text.error("Extra data")
        return document

    def _object(self, text: "_Text") -> Generator[None, None, dict[str, object]]:
        members: dict[str, object] = {}
        yield from text.take("{")
        if (yield from text.peek()) == "}":
            yield from text.take("}")
            return members
        for _ in range(MAX_MEMBERS):
            if (yield from text.peek()) != '"':
                raise text.error("Expecting property name enclosed in double quotes")
            name = str((yield from text.value()))
            yield from text.take(":")
            if name == self._name and (yield from text.peek()) == "[":
                members[name] = yield from self._list(text)
            else:
                members[name] = _emptied((yield from text.value()))
            if (yield from text.take(",}")) == "}":
                return members
        raise TooMuch(f"more than {MAX_MEMBERS} members in a page")

    def _list(self, text: "_Text") -> Generator[None, None, list[object]]:
        kept: list[object] = []
        yield from text.take("[")
        if (yield from text.peek()) == "]":
            yield from text.take("]")
            return kept
        while True:
            self._count(len(kept) + 1)
            entry = yield from text.value()
            yield
            if self.limits.marks is not None:
                self._marks += text.marks
                if self._marks > self.limits.marks:
                    raise TooMuch(f"more than {self.limits.marks} values and keys")
            kept.append(entry if self._keep is None else self._keep(entry))
            if (yield from text.take(",]")) == "]":
                return kept

    def _count(self, on_this_page: int) -> None:
        self._entries += 1
        if self._entries > self.limits.entries:
            raise TooMuch(f"more than {self.limits.entries} entries")
        if on_this_page > self.limits.entries_a_page:
            raise TooMuch(f"more than {self.limits.entries_a_page} entries in a page")


class _Text:
    """The text of a page, of which a window is in memory; the methods that need more of it yield after each window."""

    def __init__(self, body: bytes | bytearray, hide: Callable[[object], object] | None) -> None:
        self._body = body
        self._hide = hide
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._taken_up = 0
        self._complete = False
        self._window = ""
        self._at = 0
        self._before = 0
        """Characters before the window."""
        self.marks = 0
        """Marks of punctuation in the last value: there is one before each value and each key in it."""

    def error(self, what: str) -> ValueError:
        return ValueError(f"{what} (char {self._before + self._at})")

    def peek(self) -> Generator[None, None, str]:
        """Return the next character that is not white space, without taking it; empty at the end."""
        while True:
            if self._at < len(self._window):
                if (character := self._window[self._at]) not in _SPACES:
                    return character
                self._at = _SPACE.match(self._window, self._at).end()  # type: ignore[union-attr]  # it matches none, too
            elif self._extend():
                yield
            else:
                return ""

    def take(self, characters: str) -> Generator[None, None, str]:
        """Take the next character that is not white space, which must be one of these, and return it."""
        character = yield from self.peek()
        if not character or character not in characters:
            raise self.error(f"Expecting {characters[0]!r}")
        self._at += 1
        return character

    def value(self) -> Generator[None, None, object]:
        """Take the next value."""
        yield from self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._extend():
                    raise ValueError(f"{error.msg} (char {self._before + error.pos})") from None
            else:
                if end < len(self._window) or self._complete:  # or else a number may go on
                    self.marks = self._count(end)
                    self._at = end
                    return value if self._hide is None else self._hide(value)
                self._extend()
            yield

    def _count(self, end: int) -> int:
        count, at = self._window.count, self._at
        return count(",", at, end) + count(":", at, end) + count("{", at, end) + count("[", at, end)

    def _extend(self) -> bool:
        """Take up more of the page; return whether there was more."""
        if self._complete:
            return False
        rest = self._window[self._at :]
        if len(rest) >= MAX_VALUE:
            raise TooMuch(f"a value of more than {MAX_VALUE} characters")
        upto = self._taken_up + max(WINDOW, min(len(rest), MAX_VALUE - len(rest)))
        self._complete = upto >= len(self._body)
        more = self._decoder.decode(self._body[self._taken_up : upto], self._complete)
        self._before += self._at
        self._window = rest + more
        self._taken_up = upto
        self._at = 0
        if len(rest) >= WINDOW and self._count(len(self._window)) > MAX_MARKS:
            raise TooMuch(f"a value that holds more than {MAX_MARKS} values and keys")
        return True


_SPACES = " \t\r\n"
_SPACE = re.compile(f"[{_SPACES}]*")


def _emptied(value: object) -> object:
    return type(value)() if isinstance(value, dict | list) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _whole(digits: str) -> float:
    """Read a whole number; one with too many digits is beyond all counts."""
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_whole)
