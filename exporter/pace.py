"""How fast to go, by what Azure says is left of its budgets.

Pure. Others spend the same budgets, and have a right to them: where less than a tenth of one is left, our pace falls
in proportion, down to a tenth of what it was. Knows scopes by the names that Azure's headers give them, and nothing
of who is polled.
"""

LOW_PERCENT = 10
"""Of a budget: with less than this left, we slow down. A percent of the budget is then a tenth of the pace."""
RISE_SECONDS = 60.0
"""The lowest pace of so long holds: budgets are a region's, so that answers in turn tell of full and of empty ones."""
SILENCE_SECONDS = 180.0
"""A budget that was low is forgotten when nothing was heard of it for so long: Azure fills it up in that time."""
SIZE_SECONDS = 3600.0
"""A budget is as large as the most that was left of it in about so long: Azure changes its grants, now and then."""
SCOPES_KEPT = 64
ONE_SCALE_SET = "Resource"
"""How scopes end that are one scale set's own: they say nothing of the others."""
LEAST_SIZES = {
    "Microsoft.Compute/GetVMScaleSet": 2400,
    "x-ms-ratelimit-remaining-subscription-reads": 250,
    "x-ms-ratelimit-remaining-subscription-global-reads": 250,
    "x-ms-ratelimit-remaining-tenant-reads": 250,
}
"""By how a scope begins: what Azure grants at least, so that a budget found empty is known to be so."""


class Pace:
    """The pace of one subscription."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, float]] = {}
        """Of each scope the greatest number left, and when it was heard."""
        self._low: dict[str, tuple[float, float]] = {}
        """Of scopes with too little left, the pace for it, and when it was last as low."""

    def left(self, scope: str, requests: int, now: float) -> None:
        """Hear that so many requests are left."""
        if scope.endswith(ONE_SCALE_SET):
            return
        size = self._size(scope, requests, now)
        if size is None:
            return
        pace = min(LOW_PERCENT, max(1, 100 * requests // size)) / LOW_PERCENT
        known, since = self._low.get(scope, (1.0, now))
        if pace > known and now - since < RISE_SECONDS:
            return
        self._low.pop(scope, None)
        if pace < 1:
            self._low[scope] = pace, now

    def at(self, now: float) -> float:
        """Return the pace, from a tenth to 1."""
        if not self._low:
            return 1.0
        self._low = {scope: low for scope, low in self._low.items() if now - low[1] < SILENCE_SECONDS}
        return min((pace for pace, _ in self._low.values()), default=1.0)

    def _size(self, scope: str, requests: int, now: float) -> int | None:
        """Return how large a budget is, ``None`` where there are too many to remember."""
        known = self._sizes.get(scope)
        if known is None and len(self._sizes) == SCOPES_KEPT:
            return None
        if known is None or requests >= known[0] or now - known[1] >= SIZE_SECONDS:
            least = (size for start, size in LEAST_SIZES.items() if scope.startswith(start))
            known = self._sizes[scope] = max(1, requests, *least), now
        return known[0]
