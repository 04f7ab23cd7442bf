"""Which mutants count as explained."""

import pytest

from tests.supply.mutants import explained

DIFF = """\
# exporter.pace.x_pace__mutmut_1: survived
--- exporter/pace.py
+++ exporter/pace.py
@@ -1,3 +1,3 @@
 def pace(left: int) -> float:
-    if left < 1:
+    if left <= 1:
         return 0.0
"""


@pytest.mark.parametrize(
    ("tests", "is_explained"),
    [
        ("\n# Mutants that live\n#   `if left <= 1:`: why\n", True),
        ("\n# Mutants that live\n#   `if left < 2:` and `if left <= 1:`: why\n", True),
        ("\n# Mutants that live\n#   `if left < 2:`: why\n", False),
        ("\n# Mutants that live\n#   `or if left <= 1:`: why\n", False),
        ("\n#   `if left <= 1:`: not below the heading\n", False),
        ("", False),
    ],
)
def test_a_mutant_is_explained_by_the_line_that_it_made(tests: str, is_explained: bool):
    assert explained(DIFF, tests) is is_explained


def test_what_is_no_diff_is_not_explained():
    assert not explained("", "\n# Mutants that live\n#   ``: nothing\n")
