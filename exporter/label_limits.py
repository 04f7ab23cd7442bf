"""What the labels of a series may be, so that no value from Azure or the configuration makes a whole scrape fail.

Pure. Knows nothing of families, the configuration or Azure's answers.

Azure Managed Prometheus takes at most 63 labels per series, 511 characters per label name and 1,023 characters per
label value, and drops the whole scrape where one series has more. Prometheus itself does the same where
``label_limit``, ``label_name_length_limit`` or ``label_value_length_limit`` is set.
"""

from typing import Final, TypeGuard

MAX_VALUE_BYTES: Final = 1023
"""Maximum bytes of a label value in UTF-8.

The limit is given in characters, but Prometheus counts bytes, and other implementations count UTF-16 units: bytes are
the most of the three, so a value within this limit is within each of them.
"""
MAX_NAME_LENGTH: Final = 511
"""Maximum characters of a label name; all of them are ASCII."""
MAX_LABELS: Final = 63
"""Maximum labels of a series, its name (``__name__``) and the labels of the target included."""
TARGET_LABELS: Final = 16
"""Labels of a series that are left to the scraper: ``job`` and ``instance``, and what relabelling adds in Kubernetes
(``namespace``, ``pod``, ``container``, ``endpoint``, ``service``, ``node``, ``cluster`` and some of the user's own)."""
MAX_OWN_LABELS: Final = 40
"""Maximum ``label_*`` or ``tag_*`` of a scale set.

``scale_set_info`` may have 63 labels. 16 of them are left to the scraper and 7 are the family's: its name, the three of
the scale set's identity, ``location``, ``name``, and one that is kept free for ``orchestration_mode``.
"""


def is_label_value(value: object) -> TypeGuard[str]:
    """Whether a decoded JSON value may become a label value: a text that UTF-8 can express and that is short enough.

    JSON can escape half of a surrogate pair, which UTF-8 cannot express.
    """
    if not isinstance(value, str) or len(value) > MAX_VALUE_BYTES:
        return False
    if value.isascii():
        return True
    try:
        return len(value.encode()) <= MAX_VALUE_BYTES
    except UnicodeEncodeError:
        return False
