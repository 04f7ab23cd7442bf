"""What every test runs under."""

import signal

import pytest

from exporter import redaction
from exporter.redaction import Redactor

# A shell that runs us in the background has us ignore Ctrl-C, and whoever we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_shared", Redactor())
