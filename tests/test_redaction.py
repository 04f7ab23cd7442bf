"""Secrets are taken out of every text, in each form in which a text may hold them."""

import json
import logging
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.log import Json, Logfmt, fields
from exporter.redaction import Redactor, remember

TOKEN = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQ.c2lnbmF0dXJl"
SECRET = 'p/w?&  "größe\\'


def redacted(text: str, *secrets: str) -> str:
    redactor = Redactor()
    redactor.remember(*secrets)
    return redactor.redact(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing of it", "nothing of it"),
        (f"Bearer {TOKEN}", "Bearer ***"),
        (f"{TOKEN}, and {TOKEN}!", "***, and ***!"),
        (f"{TOKEN} {TOKEN[:40]}", "*** ***"),
        (f'{{"token":"{TOKEN[:30]}","a":1}}', '{"token"***,"a":1}'),
        (f"Bearer {TOKEN[:16]}", "Bearer ***"),
        (f"Bearer {TOKEN[:15]}", f"Bearer {TOKEN[:15]}"),
        ("", ""),
    ],
)
def test_a_token_is_left_out_even_where_it_is_cut(text: str, shown: str) -> None:
    assert redacted(text, TOKEN) == shown


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        " ".join(SECRET.split()),
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        "p%2fw%3f%26%20%20%22gr%c3%b6%c3%9fe%5c",
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        repr(SECRET)[1:-1],
        b64encode(SECRET.encode()).decode(),
        urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_secret_is_left_out_in_every_form(form: str) -> None:
    assert redacted(f"<{form}>", SECRET).rstrip("=>") == "<***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refused eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwb2QifQ.c2ln as such", "refused *** as such"),
        ('{"access_token": "abc", "n": 1}', '{"access_token"***, "n": 1}'),
        ("{'refresh_token': 'abc', 'n': 1}", "{'refresh_token'***, 'n': 1}"),
        ("via http://user:pw@proxy.example:3128/", "via http://***@proxy.example:3128/"),
        ("via http://proxy.example:3128/user@", "via http://proxy.example:3128/user@"),
        ("eyJ is no token", "eyJ is no token"),
    ],
)
def test_what_looks_like_a_secret_is_left_out_although_nobody_knows_it(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("secret", ["", " ", "abc", "  ab  "])
def test_a_secret_of_less_than_four_characters_is_not_looked_for(secret: str) -> None:
    assert redacted("abc  ab  abcd", secret) == "abc  ab  abcd"


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    assert redacted("user:pass and pass", "pass", "user:pass") == "*** and ***"


def test_the_secret_remembered_longest_ago_is_forgotten_first() -> None:
    redactor = Redactor(most_secrets=2)
    redactor.remember("first", "second")
    redactor.remember("first")
    redactor.remember("third")
    assert redactor.redact("first second third") == "*** second ***"


@given(st.text(min_size=4), st.text(), st.text())
def test_no_text_holds_a_secret_afterwards(secret: str, before: str, after: str) -> None:
    shown = redacted(f"{before}{secret}{after}", secret)
    assert secret in "***" or len(secret.strip()) < 4 or "***" in shown


@pytest.mark.parametrize("formatter", [Logfmt(), Json()], ids=["logfmt", "json"])
def test_no_log_line_holds_a_secret_not_even_in_a_traceback(formatter: logging.Formatter) -> None:
    remember(SECRET)
    try:
        int(SECRET)
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s failed", (SECRET,), None)
        record.exc_info = (ValueError, error, error.__traceback__)
        record.__dict__ |= fields(error=error, path=SECRET, number=7, of=None)
        line = formatter.format(record)
    assert "größe" not in line
    assert "gr\\u00f6" not in line
    assert line.count("***") == 4
    assert "ValueError" in line
