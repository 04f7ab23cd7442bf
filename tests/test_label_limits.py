"""What may become a label value."""

import pytest

from exporter.label_limits import is_label_value


@pytest.mark.parametrize(
    ("value", "fit"),
    [
        ("", True),
        ("x" * 1023, True),
        ("x" * 1024, False),
        ("é" * 511, True),
        ("é" * 512, False),
        ("\U0001f600" * 255, True),
        ("\U0001f600" * 256, False),
        ("\ud800", False),
        ("x" * 10_000_000, False),
        (None, False),
        (7, False),
        (b"x", False),
        (["x"], False),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_label_value_is_a_text_of_at_most_1023_bytes(value: object, fit: bool):
    assert is_label_value(value) is fit
