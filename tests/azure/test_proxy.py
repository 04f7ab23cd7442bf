"""The proxy of the environment: how its URL is read, and that it is refused without being shown."""

import os
from base64 import b64encode

import pytest

from exporter.azure.proxy import configured_proxy, proxy_for
from exporter.redaction import redact


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def basic(text: str) -> dict[str, str]:
    return {"Proxy-Authorization": f"Basic {b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("value", "url", "headers"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", {}),
        ("http://proxy.example:3128/", "http://proxy.example:3128", {}),
        (" http://proxy.example:3128\n", "http://proxy.example:3128", {}),
        ("proxy.example:3128", "http://proxy.example:3128", {}),
        ("proxy.example", "http://proxy.example", {}),
        ("HTTPS://Proxy.example:443", "https://Proxy.example:443", {}),
        ("http://192.0.2.1:65535", "http://192.0.2.1:65535", {}),
        ("http://[2001:DB8::1]:3128", "http://[2001:db8::1]:3128", {}),
        ("http://prøxy.example:1", "http://xn--prxy-hra.example:1", {}),
        ("http://my_proxy:1", "http://my_proxy:1", {}),
        ("http://user:hunter2@proxy:3128", "http://proxy:3128", basic("user:hunter2")),
        ("user:hunter2@proxy:3128", "http://proxy:3128", basic("user:hunter2")),
        ("http://us%40er:p%2Fw%3F%23%25@proxy", "http://proxy", basic("us@er:p/w?#%")),
        ("http://user:p@ss:word@proxy", "http://proxy", basic("user:p@ss:word")),
        ("http://user:gr%C3%B6%C3%9Fe@proxy", "http://proxy", basic("user:größe")),
        ("http://user@proxy", "http://proxy", basic("user:")),
        ("http://:hunter2@proxy", "http://proxy", basic(":hunter2")),
    ],
)
def test_a_proxy_is_read_apart_from_its_user_and_password(
    monkeypatch: pytest.MonkeyPatch, value: str, url: str, headers: dict[str, str]
) -> None:
    monkeypatch.setenv("https_proxy", value)
    proxy = configured_proxy()
    assert proxy is not None
    assert (proxy.url, dict(proxy.headers)) == (url, headers)
    assert "Basic" not in repr(proxy)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("http://user:hunter2@proxy:port", "the port must be a number from 1 to 65535"),
        ("http://user:hunter2@proxy:0", "the port must be a number from 1 to 65535"),
        ("http://user:hunter2@proxy:65536", "the port must be a number from 1 to 65535"),
        ("http://user:hunter2@proxy:", "the port must be a number from 1 to 65535"),
        ("http://user:hunter2@proxy:٣", "the port must be a number from 1 to 65535"),
        ("http://user:hunter2@[::1:3128", "the host must be a name"),
        ("http://user:hunter2@::1]:3128", "the host must be a name"),
        ("http://user:hunter2@::1", "the host must be a name"),
        ("http://user:hunter2@[hunter2]:3128", "the host must be a name"),
        ("http://user:hunter2@a..b", "the host must be a name"),
        ("http://user:hunter2@pro xy", "the host must be a name"),
        ("http://user:hunter2@", "there is no host"),
        ("http://user:hunter2@:3128", "there is no host"),
        ("http://", "there is no host"),
        ("socks5://user:hunter2@proxy:3128", "the scheme must be http or https"),
        ("ftp://user:hunter2@proxy:3128", "the scheme must be http or https"),
        ("http://user:hunter2/3@proxy:3128", "must be percent-encoded (%2F"),
        ("http://user:2/hunter2@proxy:3128", "must be percent-encoded (%2F"),
        ("http://user:hunter2#@proxy:3128", "must be percent-encoded (%2F"),
        ("http://user:2?hunter2@proxy:3128", "must be percent-encoded (%2F"),
        ("http://user:[hunter2@proxy:3128", "must be percent-encoded (%2F"),
        ("user:hunter2://@proxy:3128", "must be percent-encoded (%2F"),
        ("http://user:hunter2@proxy:3128/path", "nothing may follow the port"),
        ("http://user:hunter2%FF@proxy:3128", "must be UTF-8"),
    ],
)
@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY"])
def test_what_is_no_url_of_a_proxy_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name}: ") as caught:
        proxy_for("https://management.azure.com")
    text = str(caught.value)
    assert why in text
    assert "http://USER:PASSWORD@HOST:PORT" in text
    assert "hunter2" not in text
    assert text.splitlines() == [text]


def test_the_variable_that_is_in_force_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("https_proxy", "http://proxy:port")
    with pytest.raises(ValueError, match="environment variable https_proxy: "):
        configured_proxy()


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_for_something_else_is_none_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://user:hunter2@proxy:port")
    assert configured_proxy() is None


def test_the_password_of_a_proxy_is_a_secret_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:hunter%32@proxy")
    configured_proxy()
    echo = f"hunter2 and hunter%32 and {basic('user:hunter2')['Proxy-Authorization']}"
    assert redact(echo) == "*** and *** and Basic ***"
