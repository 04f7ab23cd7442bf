"""What failed answers say in words: total over any bytes, and always one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.azure import errors
from exporter.azure.errors import Malformed, PollError, one_line, parse_error
from exporter.redaction import remember
from exporter.snapshot import Reason

DEEP = 200_000


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": {"code": "NotFound", "message": "It is gone."}}', "NotFound: It is gone."),
        (b'{"code": "OperationNotAllowed", "message": "Too many."}', "OperationNotAllowed: Too many."),
        (b'{"error": {"code": "NotFound"}}', "NotFound"),
        (b'{"error": {"message": "It is gone."}}', "It is gone."),
        (b'{"error": {"code": 7, "message": "Seven."}}', "Seven."),
        (b'{"error": {"code": "A", "message": {"en": "B"}}}', "A"),
        (b'{"error": "invalid_request", "code": "A"}', "A"),
        (b'{"error": {}, "code": "outside"}', ""),
        (b'{"error": {"code": "A\\n\\tB", "message": " C\\r\\nD\\u2028E "}}', "A B: C D E"),
        (b'{"error": {"code": "\\ud800"}}', "?"),
        (b'\xef\xbb\xbf{"code": "after a byte order mark"}', "after a byte order mark"),
        ('{"code": "größer"}'.encode("utf-16"), "größer"),
        (b'{"error": null}', ""),
        (b"[]", ""),
        (b"null", ""),
        (b'"code"', ""),
        (b"", ""),
        (b"<html><h1>502 Bad Gateway</h1></html>", ""),
        (b'{"code": "\xff"}', ""),
        (b'{"code": "A"', ""),
        (b"1" * 5000, ""),
        (b"[" * DEEP, ""),
        (b'{"error":' * DEEP, ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_error_is_read_as_far_as_it_makes_sense(body: bytes, text: str) -> None:
    assert parse_error(body) == text


def test_an_endless_message_is_cut() -> None:
    body = json.dumps({"code": "x" * 1000, "message": "y" * 1000}).encode()
    assert parse_error(body) == "x" * 256 + ": " + "y" * 256


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(("error", "code", "message", "x")), inner)
    ),
)


@given(st.binary() | JSON.map(lambda document: json.dumps(document).encode()))
def test_any_body_gives_one_line(body: bytes) -> None:
    text = parse_error(body)
    assert text.splitlines() in ([], [text])
    assert len(text) <= 256 + 2 + 256
    text.encode()


@given(st.text(st.characters(codec=None)), st.integers(1, 300))
def test_any_text_fits_on_one_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.splitlines() in ([], [line])
    assert len(line) <= limit
    assert "  " not in line
    line.encode()


TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQ.c2lnbmF0dXJl"


def test_an_error_hides_a_secret_wherever_it_says_it() -> None:
    remember(TOKEN)
    error = Malformed(f"a {TOKEN}", request_id=f"b {TOKEN}", excerpt=f"c {TOKEN}")
    assert (str(error), error.request_id, error.excerpt) == ("a ***", "b ***", "c ***")


@pytest.mark.parametrize("secret", ["hunter2", TOKEN], ids=["short", "long"])
def test_a_secret_is_hidden_before_the_text_is_cut_amid_it(secret: str) -> None:
    remember(secret)
    for limit in range(1, 40):
        assert one_line(f"refused: {secret} is wrong", limit) == "refused: *** is wrong"[:limit]


def test_a_short_line_stays_as_it_is() -> None:
    assert one_line("größer ist schöner: 100 %") == "größer ist schöner: 100 %"


def test_each_reason_but_none_other_has_its_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PollError)]
    reasons = [kind.reason for kind in kinds if hasattr(kind, "reason")]
    assert sorted(reasons, key=str) == sorted(Reason, key=str)
