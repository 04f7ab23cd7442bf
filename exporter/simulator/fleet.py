"""The simulated fleet: which scale sets there are, and what befell them until now.

Theory of operation: a scale set plays one part of ``CAST``, over and over. Cycle n of its part begins at
``epoch - phase + n * period`` with a rollout, which runs its course and ends. What is true at ``now`` thus follows
from ``now`` alone; nothing is remembered or ticked. Before cycle 0 lie past upgrades, some twelve days apart.
Courses, phases and periods are in Azure's time, which runs ``speed`` times as fast as the wall clock; timestamps
are wall time and never in the future.

Pure: ``now``, in epoch seconds, comes in. Must not know HTTP or JSON.
"""

from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from functools import lru_cache
from random import Random
from uuid import UUID

from exporter.scale_set import resource_id

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
KEPT_UPGRADES, KEPT_SECONDS = 5, 60 * DAY
"""Azure keeps the last five upgrades of the past two months."""
BATCHES, BATCH_SECONDS = 5, 10 * MINUTE
"""20 % of the instances at a time, Azure's default."""
CHECK_SECONDS = 30.0
"""How long Azure looks at the health of all instances before the first batch."""


# --- What is true ------------------------------------------------------------------------------------------


class State(StrEnum):
    """UpgradeState, as of the newest clients."""

    ROLLING_FORWARD = "RollingForward"
    ROLLING_BACK = "RollingBack"
    COMPLETED = "Completed"
    CANCELLED = "Cancelled"
    FAULTED = "Faulted"


@dataclass(frozen=True, slots=True)
class ApiError:
    """Why an upgrade or its rollback ended badly."""

    code: str
    message: str
    target: str | None = None
    details: tuple["ApiError", ...] = ()
    exception_type: str | None = None
    error_detail: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """What an upgrade installs: a marketplace image, or one of three kinds of gallery image."""

    publisher: str | None = None
    offer: str | None = None
    sku: str | None = None
    version: str | None = None
    exact_version: str | None = None
    id: str | None = None
    shared_gallery_image_id: str | None = None
    community_gallery_image_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rollback:
    """How many instances went back to their old image, and how many failed to."""

    successful: int = 0
    failed: int = 0
    error: ApiError | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """One upgrade as it stands at some moment; times in epoch seconds, whole microseconds."""

    state: State
    start: float
    end: float | None
    successful: int
    failed: int
    in_progress: int
    pending: int
    started_by: str
    image: Image
    error: ApiError | None = None
    rollback: Rollback | None = None


# --- The parts to play -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Course:
    """How a rollout goes: batches that succeed, then batches that fail, perhaps a rollback, then the end."""

    end: State
    good: int = 0
    bad: int = 0
    rollback: int = 0
    """How long it rolls back, in times of a batch."""
    rollback_fails: bool = False
    error: str | None = None
    counted: bool = True
    """False: all counts are 0 in the end, as Azure's are now and then."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return CHECK_SECONDS + (self.good + self.bad + self.rollback) * BATCH_SECONDS


_UNHEALTHY = "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
_UNHEALTHY_BEFORE = "MaxUnhealthyInstancePercentExceededBeforeRollingUpgrade"
COMPLETES = Course(State.COMPLETED, good=BATCHES)
COMPLETES_UNCOUNTED = Course(State.COMPLETED, good=BATCHES, counted=False)
IS_CANCELLED = Course(State.CANCELLED, good=2, error="RollingUpgradeCanceled")
FAULTS = Course(State.FAULTED, good=2, bad=1, error=_UNHEALTHY)
FAULTS_AT_ONCE = Course(State.FAULTED, error=_UNHEALTHY_BEFORE, counted=False)
ROLLS_BACK = Course(State.FAULTED, good=2, bad=1, rollback=2, error=_UNHEALTHY)
FAILS_TO_ROLL_BACK = Course(State.FAULTED, good=2, bad=1, rollback=2, rollback_fails=True, error=_UNHEALTHY)


@dataclass(frozen=True, slots=True)
class Form:
    """How entries are spelled, which differs between ages of the API."""

    end_key: str
    zone: timezone
    seventh_digit: str
    """Of a second's fraction; 0 where there is one, so that what is rendered equals what is true."""
    rollback_info: bool
    """Where entries carry ``rollbackInfo``, they do so even when nothing was rolled back."""


DOCUMENTED = Form("endTime", UTC, "", rollback_info=True)
RECORDED = Form("completedTime", timezone(timedelta(hours=-7)), "0", rollback_info=False)
"""As in responses of 2018 to 2022."""

# Images are templates: {0} is the day of the upgrade and {1} counts the upgrades of a day.
_GALLERIES = "/subscriptions/6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11/resourceGroups/rg-images/providers/Microsoft.Compute/galleries"
_UBUNTU, _WINDOWS, _OWN = "22.04.{0:%Y%m%d}{1}", "20348.289{1}.{0:%y%m%d}", "{0:%Y.%m%d}.{1}"
JAMMY = Image("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", _UBUNTU, _UBUNTU)
MINIMAL = Image("Canonical", "0001-com-ubuntu-minimal-jammy", "minimal-22_04-lts-gen2", "latest", _UBUNTU)
WINDOWS = Image(
    "MicrosoftWindowsServer", "WindowsServer", "2022-datacenter-azure-edition", _WINDOWS, _WINDOWS
)
GALLERY = Image(id=f"{_GALLERIES}/golden/images/ubuntu/versions/{_OWN}")
SHARED = Image(
    exact_version=_OWN, shared_gallery_image_id=f"/SharedGalleries/6c1e-GOLDEN/Images/web/Versions/{_OWN}"
)
COMMUNITY = Image(
    exact_version=_OWN, community_gallery_image_id=f"/CommunityGalleries/cis-2f81/Images/l1/Versions/{_OWN}"
)
MARKETPLACE = (JAMMY, MINIMAL, WINDOWS)


@dataclass(frozen=True, slots=True)
class Part:
    """What a scale set goes through, again and again."""

    course: Course | None
    """None: it was never upgraded."""
    period: float = 14 * DAY
    phase: float = 3 * HOUR
    """How far into cycle 0 it is at the epoch."""
    past: tuple[Course, ...] = (COMPLETES,) * (KEPT_UPGRADES - 1)
    """The upgrades before cycle 0, latest first."""
    started_by: str = "Platform"
    image: Image | None = None
    """None: one of the marketplace."""
    form: Form = DOCUMENTED
    latest_first: bool = True


def _rolling(phase: float, started_by: str = "Platform", *, latest_first: bool = True) -> Part:
    past = (COMPLETES, FAULTS, COMPLETES, COMPLETES)
    return Part(COMPLETES, 70 * MINUTE, phase, past, started_by, latest_first=latest_first)


# The three that roll are a third of their period apart and spend 3/7 of it in batches two to four: at every
# moment at least one of them has instances that are upgraded, in progress and pending.
CALM = Part(COMPLETES)
CAST = (
    _rolling(15 * MINUTE),
    Part(FAULTS, DAY, 2 * HOUR, past=(FAULTS_AT_ONCE, COMPLETES, COMPLETES)),
    Part(ROLLS_BACK, 90 * MINUTE, 15 * MINUTE),
    Part(IS_CANCELLED, 12 * HOUR, started_by="User"),
    Part(None),
    _rolling(15 * MINUTE + 70 * MINUTE / 3, "User"),
    Part(COMPLETES, past=(COMPLETES_UNCOUNTED, COMPLETES_UNCOUNTED), image=JAMMY, form=RECORDED),
    Part(COMPLETES, image=SHARED, past=()),
    Part(COMPLETES, image=COMMUNITY, latest_first=False),
    _rolling(15 * MINUTE + 140 * MINUTE / 3, latest_first=False),
    Part(FAILS_TO_ROLL_BACK, 90 * MINUTE, 50 * MINUTE),
    Part(COMPLETES, image=GALLERY, started_by="Unknown"),
)
LIVELY = 16
"""Beyond the first twelve, one scale set in so many plays a part of the cast; the others are calm."""

# Role and resource group; people spell them every way.
ROLES = (
    *(("web", "rg-web"), ("api", "rg-api"), ("payments", "RG-Payments"), ("checkout", "rg-checkout")),
    *(("search", "rg-search"), ("worker", "RG-WORKERS"), ("batch", "rg-batch"), ("cache", "rg-cache")),
    *(("gateway", "rg-Gateway"), ("media", "rg-media"), ("reports", "Reports"), ("ci", "rg-build-agents")),
)
REGIONS = (("eu", "westeurope"), ("us", "eastus"), ("uk", "uksouth"), ("sea", "southeastasia"))
ENVIRONMENTS = ("prod", "prod", "staging", "dev")
TEAMS = ("platform", "payments", "storefront", "insight")
SIZES = (10, 15, 20, 25, 40, 60, 100)


@dataclass(frozen=True, slots=True)
class ScaleSet:
    """One scale set of the fleet: where it is and which part it plays."""

    subscription_id: str
    resource_group: str
    name: str
    location: str
    tags: tuple[tuple[str, str], ...]
    instances: int
    part: Part
    phase: float
    image: Image
    gap: float
    """Seconds between its past upgrades."""
    resource_id: str = field(init=False)
    """The ARM resource id, as Azure spells it."""

    def __post_init__(self) -> None:
        spelled = resource_id(self.subscription_id, self.resource_group, self.name)
        object.__setattr__(self, "resource_id", spelled)

    @property
    def automatic_upgrade(self) -> bool:
        """Whether Azure upgrades it by itself."""
        return self.part.started_by == "Platform"


class Fleet:
    """All scale sets of all subscriptions; the same arguments give the same fleet and the same histories.

    ``epoch`` is the wall time at which its time begins to run at ``speed``, ``scale_sets`` how many there are in
    all subscriptions together.
    """

    def __init__(
        self,
        *,
        epoch: float,
        subscriptions: int = 2,
        scale_sets: int = 12,
        seed: int = 1,
        speed: float = 60.0,
    ) -> None:
        if subscriptions < 1 or scale_sets < 0 or speed <= 0:
            raise ValueError("a fleet needs at least 1 subscription, 0 scale sets and a speed above 0")
        self.epoch, self.speed = epoch, speed
        # Most scale sets rest most of the time: what is known of them saves a server most of its work.
        self._at_rest: dict[str, tuple[float, float, tuple[Upgrade, ...]]] = {}
        random = Random(seed)  # noqa: S311  (casts parts, keeps no secret)
        self.subscriptions = tuple(
            str(UUID(int=random.getrandbits(128), version=4)) for _ in range(subscriptions)
        )
        self.scale_sets = tuple(_scale_set(index, self.subscriptions, random) for index in range(scale_sets))

    def history(self, scale_set: ScaleSet, now: float) -> tuple[Upgrade, ...]:
        """Return the upgrades that Azure remembers at ``now``, which is not before the epoch."""
        if scale_set.part.course is None:
            return ()
        since, until, upgrades = self._at_rest.get(scale_set.resource_id, (0.0, 0.0, ()))
        if not since <= now < until:
            since, until, upgrades = self._history(scale_set, scale_set.part.course, now)
            self._at_rest[scale_set.resource_id] = since, until, upgrades
        return upgrades

    def _history(
        self, scale_set: ScaleSet, course: Course, now: float
    ) -> tuple[float, float, tuple[Upgrade, ...]]:
        """Return the upgrades, and since when and until when nothing about them changes."""
        part = scale_set.part
        first = self.epoch - scale_set.phase / self.speed
        period = part.period / self.speed
        latest = max(-1, int((now - first) // period))
        upgrades = []
        for cycle in range(latest, max(latest - KEPT_UPGRADES, -1 - len(part.past)), -1):
            if cycle >= 0:
                followed, start, speed = course, first + cycle * period, self.speed
            else:  # time did not run faster yet
                followed, start, speed = part.past[-cycle - 1], first + cycle * scale_set.gap, 1.0
            upgrade = _rollout(scale_set, followed, cycle, start=_microseconds(start), speed=speed, now=now)
            if upgrade.end is None or upgrade.start >= now - KEPT_SECONDS:
                upgrades.append(upgrade)
        in_order = tuple(upgrades if part.latest_first else upgrades[2:] + upgrades[:2])
        if not upgrades or (since := upgrades[0].end) is None:
            return now, now, in_order
        return since, min(first + (latest + 1) * period, upgrades[-1].start + KEPT_SECONDS), in_order


def _scale_set(index: int, subscriptions: tuple[str, ...], random: Random) -> ScaleSet:
    first = index < len(CAST)
    lively = first or index % LIVELY == 0
    part = CAST[(index if first else index // LIVELY) % len(CAST)] if lively else CALM
    role, resource_group = ROLES[index % len(ROLES)]
    environment, (region, location) = random.choice(ENVIRONMENTS), random.choice(REGIONS)
    return ScaleSet(
        subscription_id=subscriptions[index % len(subscriptions)],
        resource_group=resource_group,
        name=f"{role}-{environment}-{region}" + ("" if first else f"-{index:03}"),
        location=location,
        tags=(("env", environment), ("team", random.choice(TEAMS)), ("role", role)),
        instances=random.choice(SIZES),
        part=part,
        phase=part.phase if first else random.uniform(HOUR, part.period),
        image=part.image or random.choice(MARKETPLACE),
        gap=random.uniform(11 * DAY, 13.5 * DAY),
    )


def _rollout(
    scale_set: ScaleSet, course: Course, cycle: int, *, start: float, speed: float, now: float
) -> Upgrade:
    """Return how far a rollout that started at ``start`` has come at ``now``."""
    end = _microseconds(start + course.seconds / speed)
    over = end <= now
    batches = course.good + course.bad
    position = ((now - start) * speed - CHECK_SECONDS) / BATCH_SECONDS  # in batches
    if over or (course.rollback and position >= batches):
        state = course.end if over else State.ROLLING_BACK
        done, running = batches, 0
    else:
        state = State.ROLLING_FORWARD
        done, running = max(0, min(int(position), batches - 1)), int(position >= 0)
    good = min(done, course.good)
    counted = scale_set.instances // BATCHES if course.counted or not over else 0
    return Upgrade(
        state=state,
        start=start,
        end=end if over else None,
        successful=good * counted,
        failed=(done - good) * counted,
        in_progress=running * counted,
        pending=(BATCHES - done - running) * counted,
        started_by=scale_set.part.started_by,
        image=_image(scale_set.image, int(start // DAY), cycle % 10),
        error=None if state is State.ROLLING_FORWARD else _error(scale_set, course),
        rollback=_rollback(scale_set, course, 1.0 if over else (position - batches) / (course.rollback or 1)),
    )


def _microseconds(seconds: float) -> float:
    """Round down to what a timestamp can say; one less, for the product may have been rounded up."""
    return (seconds * 1e6 // 1 - 1) / 1e6


@lru_cache(maxsize=4096)
def _image(template: Image, day: int, number: int) -> Image:
    """Return the newest image on that day since 1970."""
    date = datetime.fromtimestamp(day * DAY, UTC)
    return Image(*(field and field.format(date, number) for field in astuple(template)))


def _rollback(scale_set: ScaleSet, course: Course, share: float) -> Rollback | None:
    """Roll back this share of the instances that failed; every other one fails again if it is to fail."""
    if not scale_set.part.form.rollback_info:
        return None
    if not course.rollback:
        return _NO_ROLLBACK
    touched = int(max(0.0, min(share, 1.0)) * course.bad * (scale_set.instances // BATCHES))
    failed = touched // 2 if course.rollback_fails else 0
    return Rollback(touched - failed, failed, _ROLLBACK_ERROR if failed and share >= 1 else None)


def _error(scale_set: ScaleSet, course: Course) -> ApiError | None:
    """Return the error of a course that ends badly, with a detail for each instance that failed."""
    if course.error is None:
        return None
    if not course.bad:
        return ApiError(course.error, _MESSAGES[course.error])
    batch = scale_set.instances // BATCHES
    instances = range(course.good * batch, (course.good + course.bad) * batch)
    return ApiError(
        course.error,
        _MESSAGES[course.error],
        scale_set.name,
        tuple(
            ApiError(
                "RollingUpgradeInstanceUnhealthyError",
                "Instance found to be unhealthy or unreachable.",
                f"{scale_set.name}/virtualMachines/{instance}",
            )
            for instance in instances
        ),
        "RollingUpgradeInstanceUnhealthyException",
        "The application health extension reported Unhealthy for 10 minutes.",
    )


_MESSAGES = {
    _UNHEALTHY: "Rolling Upgrade failed after exceeding the MaxUnhealthyUpgradedInstancePercent value defined in the"
    " RollingUpgradePolicy. 33% of instances are in an unhealthy state after being upgraded - more than the threshold"
    " of 20%. The most impactful error is: Instance found to be unhealthy or unreachable.",
    _UNHEALTHY_BEFORE: "Rolling Upgrade failed before it started: 40% of instances are in an unhealthy state - more"
    " than the threshold of 20%.",
    "RollingUpgradeCanceled": "The rolling upgrade was cancelled by the user.",
}
_NO_ROLLBACK = Rollback()
_ROLLBACK_ERROR = ApiError(
    "InternalExecutionError",
    "An internal execution error occurred while the previous OS disks were restored.",
    exception_type="OSDiskSwapException",
    error_detail="The OS disk is locked by another operation.",
)
