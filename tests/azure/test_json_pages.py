"""Pages are decoded as ``json`` decodes them, wherever a window ends, and no further than the limits."""

import json
from collections.abc import Callable, Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.azure.json_pages import WINDOW, JsonPages, Limits, TooMuch

LIMITS = Limits(total_bytes=64 * 1024 * 1024, entries=10, entries_a_page=5)


def result(steps: Generator[None, None, object]) -> object:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def decode(
    body: str | bytes,
    limits: Limits = LIMITS,
    keep: Callable[[object], object] | None = None,
    hide: Callable[[object], object] | None = None,
) -> object:
    content = body.encode() if isinstance(body, str) else body
    return result(JsonPages("value", limits, keep).decode(content, hide))


@pytest.mark.parametrize(
    ("body", "document"),
    [
        ('{"value": [1, "a", null, true, {"b": [2]}]}', {"value": [1, "a", None, True, {"b": [2]}]}),
        (' \r\n\t{ "value" : [ ] , "nextLink" : "x" } \n', {"value": [], "nextLink": "x"}),
        ('\ufeff{"value":[{}]}', {"value": [{}]}),
        ("{}", {}),
        ('{"value": [[1, [2]]]}', {"value": [[1, [2]]]}),
        ('{"value": 5, "value": [6]}', {"value": [6]}),
        ('{"value": [5], "value": 6}', {"value": 6}),
        ('{"value": {"a": 1}, "a": [1], "b": {"c": 1}}', {"value": {}, "a": [], "b": {}}),
        ('{"n": -12, "m": 1.5e3, "f": false}', {"n": -12, "m": 1500.0, "f": False}),
        ('{"n": 123456789012345678901}', {"n": float("inf")}),
        ('"text"', "text"),
        ("[1, 2]", []),
        ("7", 7),
        ("null", None),
    ],
)
def test_a_page_is_decoded_but_for_what_nothing_reads(body: str, document: object):
    assert decode(body) == document


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "Expecting value (char 0)"),
        ("  ", "Expecting value (char 2)"),
        ("<html>", "Expecting value (char 0)"),
        ("{", "Expecting property name enclosed in double quotes (char 1)"),
        ("{1:2}", "Expecting property name enclosed in double quotes (char 1)"),
        ('{"a":1,}', "Expecting property name enclosed in double quotes (char 7)"),
        ('{"a" 1}', "Expecting ':' (char 5)"),
        ('{"a":1 "b":2}', "Expecting ',' (char 7)"),
        ('{"value":[1', "Expecting ',' (char 11)"),
        ('{"value":[1}', "Expecting ',' (char 11)"),
        ('{"value":[1,]}', "Expecting value (char 12)"),
        ('{"value":[,1]}', "Expecting value (char 10)"),
        ('{"value":["a]}', "Unterminated string starting at (char 10)"),
        ('{"value":[]} x', "Extra data (char 13)"),
        ('{"value":[]}{}', "Extra data (char 12)"),
        ('{"value":[NaN]}', "NaN is not JSON"),
        ('{"value":[tru]}', "Expecting value (char 10)"),
        (" " * 100_000 + "x", "Expecting value (char 100000)"),
    ],
)
def test_what_is_not_json_is_an_error_that_says_where(body: str, error: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (its text is what is tested)
        decode(body)
    assert str(caught.value) == error


@pytest.mark.parametrize("body", [b'{"value":["\xff"]}', b'{"value":["\xc3', b'{"value":[]}\xf0'])
def test_what_is_not_utf_8_is_an_error(body: bytes):
    with pytest.raises(UnicodeDecodeError):
        decode(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(
    entries=st.lists(VALUES, max_size=5),
    escaped=st.booleans(),
    indent=st.sampled_from([None, 1]),
    cut=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_entries_are_what_json_makes_of_them_wherever_a_window_ends(
    entries: list[object], escaped: bool, indent: int | None, cut: float
):
    page = json.dumps({"value": entries, "n": 12345}, ensure_ascii=escaped, indent=indent).encode(
        errors="surrogatepass"
    )
    before = b" " * (WINDOW - int(cut * len(page)))
    try:
        page.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            decode(before + page)
        return
    assert decode(before + page) == json.loads(page)


def test_an_entry_may_be_longer_than_a_window():
    entries = [{"text": "é" * 300_000}, {"text": "x" * 1_000_000}, 5]
    assert decode(json.dumps({"value": entries}, ensure_ascii=False)) == {"value": entries}


@pytest.mark.parametrize(
    ("pages", "limits", "error"),
    [
        (["0,0,0,0,0,0"], LIMITS, "more than 5 entries in a page"),
        (["0,0,0,0", "0,0,0,0", "0,0,0"], LIMITS, "more than 10 entries"),
        (["[0,0]", "[0,0,0]"], Limits(99, 10, 10, marks=4), "more than 4 values and keys"),
        (['{"a":0}'] * 3, Limits(99, 10, 10, marks=5), "more than 5 values and keys"),
        (['"' + "x" * 2_200_000 + '"'], LIMITS, "a value of more than 2097152 characters"),
        (
            ["[" + "[0,0]," * 30_000 + "0]"],
            LIMITS,
            "a value that holds more than 75000 values and keys",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pages_hold_no_more_than_the_limits(pages: list[str], limits: Limits, error: str):
    reader = JsonPages("value", limits)
    *good, last = [f'{{"value":[{entries}]}}'.encode() for entries in pages]
    for page in good:
        result(reader.decode(page))
    with pytest.raises(TooMuch) as caught:
        result(reader.decode(last))
    assert str(caught.value) == error


def test_as_much_as_the_limits_allow_is_decoded():
    reader = JsonPages("value", Limits(total_bytes=99, entries=4, entries_a_page=2, marks=8))
    page = b'{"value":[{"a":0},{"b":0}]}'
    for _ in range(2):
        assert result(reader.decode(page)) == {"value": [{"a": 0}, {"b": 0}]}
    assert reader.bytes_left == 99 - 2 * len(page)


def test_more_members_than_azure_has_are_too_much():
    with pytest.raises(TooMuch, match="more than 32 members in a page"):
        decode(json.dumps({str(number): 0 for number in range(33)}))
    assert len(decode(json.dumps({str(number): 0 for number in range(32)}))) == 32  # type: ignore[arg-type]


def test_what_keep_returns_takes_the_place_of_an_entry():
    assert decode('{"value":[1,2],"other":3}', keep=lambda entry: [entry]) == {
        "value": [[1], [2]],
        "other": 3,
    }


@pytest.mark.parametrize("before", range(0, 40, 3))
def test_a_secret_is_hidden_in_decoded_values_wherever_a_window_ends(before: int):
    page = b" " * (WINDOW - before) + b'{"value":["Bearer secret-token","x"]}'
    assert decode(page, hide=lambda value: str(value).replace("secret-token", "***")) == {
        "value": ["Bearer ***", "x"]
    }


def test_a_large_page_is_decoded_in_many_steps():
    steps = JsonPages("value", Limits(99_000_000, 1000, 1000)).decode(
        json.dumps({"value": [{"a": "x" * 1000}] * 1000}).encode()
    )
    assert sum(1 for _ in steps) >= 1000
