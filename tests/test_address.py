"""Addresses to listen on, as they are typed."""

import pytest

from exporter.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9847", Address(None, 9847)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("localhost:9847", Address("localhost", 9847)),
        ("[::1]:9847", Address("::1", 9847)),
        ("[::]:9847", Address("::", 9847)),
    ],
)
def test_an_address_is_read_as_prometheus_exporters_write_it(text: str, address: Address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "9847", "localhost", "localhost:", "localhost:x", "localhost:65536", "::1:9847"]
)
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ValueError, match=r"must be host:port|stands in brackets"):
        parse_address(text)
