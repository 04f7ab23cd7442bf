"""The status page's HTML and JSON, of snapshots made here."""

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import status
from exporter.banners import DiscoveryStatus
from exporter.history import ApiError, ErrorDetail, History, Image, Progress, Rollback, Upgrade, UpgradeState
from exporter.scale_set import ScaleSet
from exporter.selection import Query
from exporter.snapshot import Reason, Snapshot

NOW = 1_793_534_400.0
"""2026-11-01T12:00:00Z"""
VOID = {"meta", "link", "input", "wbr", "br"}


class Page(HTMLParser):
    """What a browser would make of it: elements properly nested, their attributes, and the text."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(body.decode())
        assert self._open == [], "not closed"
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        assert len(attrs) == len(dict(attrs)), f"an attribute twice: {attrs}"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(
    *snapshots: Snapshot,
    query: Query | None = None,
    past: status.Past = status.nothing,
    discoveries: Sequence[DiscoveryStatus] = (),
) -> Page:
    body = status.html(snapshots, query or Query(), NOW, "/metrics", past=past, discoveries=discoveries)
    return Page(body)


SCALE_SET = ScaleSet("Sub-1", "RG-Web", "Web", 300.0, labels=(("label_team", "payments"),))
IMAGE = Image("Canonical", "ubuntu", "22_04-lts", "latest", "22.04.202611010")
FAULTED = Upgrade(
    UpgradeState.FAULTED,
    NOW - 3720,
    NOW - 120,
    Progress(1200, 3, 0, 7),
    ApiError(
        "MaxUnhealthy",
        "Too many are unhealthy.",
        "Web",
        "Unhealthy",
        "it reported so",
        tuple(ErrorDetail("InstanceUnhealthy", "It is unhealthy.", f"web/{number}") for number in range(12)),
    ),
    "Platform",
    IMAGE,
    Rollback(5, 2, ApiError("InternalExecutionError")),
    "westeurope",
)
EARLIER = Upgrade(UpgradeState.COMPLETED, NOW - 86_400 * 12, NOW - 86_400 * 12 + 1800, image=IMAGE)
SNAPSHOT = Snapshot(
    SCALE_SET,
    300.0,
    History((FAULTED, EARLIER)),
    last_poll=NOW - 5,
    last_success=NOW - 5,
    last_progress=NOW - 300,
)


@pytest.mark.parametrize(
    "expected",
    [
        "Web RG-Web Sub-1",
        "Faulted",
        "1,200 successful 3 failed 7 pending",
        "1 h 2 min ago by Platform took 1 h",
        "Canonical ubuntu 22_04- lts 22.04.202611010",
        "Max Unhealthy Too many are unhealthy. Target: Web Exception: Unhealthy it reported so",
        "It is unhealthy. web/0 web/1 web/2 web/3 web/4 web/5 web/6 web/7 web/8 web/9 and 2 more",
        "Rollback: Internal Execution Error Azure gives no message.",
        "5 rolled back, 2 failed to roll back",
        "2 upgrades",
        "Completed 12 d ago , took 30 min, 22.04.202611010",
        "5 s ago every 5m",
        "1 to 1 of 1 scale sets",
        "As of 2026-11-01 12:00:00 UTC",
    ],
)
def test_a_row_says_what_there_is_to_say(expected: str):
    assert expected in page(SNAPSHOT).text


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (Snapshot(SCALE_SET, 300.0), "No data none none none none none not polled yet every 5m"),
        (
            Snapshot(
                SCALE_SET, 300.0, failure=Reason.NOT_FOUND, failure_message="there is none", last_poll=NOW
            ),
            "No data none none none none none not found there is none no good poll yet every 5m",
        ),
        (
            replace(SNAPSHOT, failure=Reason.SERVER_ERROR, failure_message="503 of a gateway"),
            "server error 503 of a gateway last good poll 5 s ago every 5m",
        ),
        (replace(SNAPSHOT, history=History()), "Never upgraded none none none none none 5 s ago"),
        (
            replace(SNAPSHOT, history=History((Upgrade(),))),
            "Unknown none at an unknown time none none none 5 s ago",
        ),
        (
            replace(SNAPSHOT, history=History((Upgrade(UpgradeState.COMPLETED, NOW - 60),))),
            "1 min ago end not told",
        ),
        (
            replace(SNAPSHOT, history=History((Upgrade(UpgradeState.ROLLING_FORWARD, NOW - 600),))),
            "10 min ago running for 10 min last progress 5 min ago",
        ),
        (
            replace(SNAPSHOT, history=History((replace(FAULTED, progress=Progress(0, 0, 0, 0)),))),
            "Faulted 0 successful 1 h",
        ),
        (replace(SNAPSHOT, history=History((replace(FAULTED, error=ApiError()),))), "error without a code"),
    ],
)
def test_what_is_not_known_is_not_made_up(snapshot: Snapshot, expected: str):
    assert expected in page(snapshot).text


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image("MicrosoftWindowsServer", version="1.2"), ("MicrosoftWindowsServer", "1.2", "")),
        (Image("a", "b", "c", "latest", "3.4"), ("a b c", "3.4", "")),
        (
            Image(id="/subscriptions/s/resourceGroups/g/providers/p/galleries/Golden/images/web/versions/1.2.0"),
            ("Golden/web", "1.2.0", "/subscriptions/s/resourceGroups/g/providers/p/galleries/Golden/images/web/versions/1.2.0"),
        ),
        (
            Image(community_gallery_image_id="/CommunityGalleries/x/Images/web/Versions/latest", exact_version="2.0.1"),
            ("web", "2.0.1", "/CommunityGalleries/x/Images/web/Versions/latest"),
        ),
        (Image(id="/subscriptions/s/images/web"), ("web", "", "/subscriptions/s/images/web")),
        (Image(id="////"), ("", "", "////")),
        (Image(), ("", "", "")),
    ],
)  # fmt: skip
def test_an_image_in_words(image: Image, expected: tuple[str, str, str]):
    picture = status._picture(image)  # noqa: SLF001
    assert (picture.name, picture.version, picture.reference) == expected


def test_an_empty_fleet_and_a_query_without_an_answer_say_so():
    assert "No scale sets yet" in page().text
    assert "None of 1 scale sets is like that" in page(SNAPSHOT, query=Query(search="nope")).text


FORBIDDEN = DiscoveryStatus(
    "sub-1", failure=Reason.FORBIDDEN, failure_message="HTTP 403 AuthorizationFailed: No."
)


def test_a_discovery_that_fails_is_told_with_what_to_do_instead_of_an_empty_fleet():
    shown = page(discoveries=[FORBIDDEN]).text
    assert "Discovery fails: forbidden in subscription sub-1 HTTP 403 AuthorizationFailed: No. Grant" in shown
    assert "Microsoft. Compute/ virtual Machine Scale Sets/ read on / subscriptions/ sub- 1" in shown
    assert "No scale sets: discovery fails" in shown
    assert "No scale sets yet" not in shown


def test_a_discovery_that_selects_nothing_says_how_many_it_found():
    shown = page(discoveries=[DiscoveryStatus("sub-1", found=7)]).text
    assert "Nothing selected in subscription sub-1 Discovery found 7 scale sets and selects none." in shown
    assert "No scale sets: discovery selects none" in shown


def test_only_the_first_banners_are_open():
    discoveries = [replace(FORBIDDEN, subscription_id=f"sub-{number}") for number in range(9)]
    assert "sub-2 HTTP" in (shown := page(discoveries=discoveries).text)
    assert "6 more Discovery fails: forbidden in subscription sub-3" in shown
    assert shown.count("Discovery fails: forbidden") == 9


def test_a_hostile_message_in_a_banner_stays_text():
    hostile = replace(FORBIDDEN, failure_message="<script>alert(1)</script>\"' onload=x")
    body = status.html([], Query(), NOW, "/metrics", discoveries=[hostile])
    assert b"<script>alert" not in body
    assert b"&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39; onload=x" in body


def test_the_json_has_the_same_banners():
    document = json.loads(status.document([], Query(), NOW, discoveries=[FORBIDDEN]))
    assert document["banners"] == [
        {
            "subscription_id": "sub-1",
            "title": "Discovery fails",
            "reason": "forbidden",
            "message": "HTTP 403 AuthorizationFailed: No.",
            "action": "Grant the identity Microsoft.Compute/virtualMachineScaleSets/read on /subscriptions/sub-1,"
            " which the role Reader contains.",
        }
    ]


def test_links_keep_the_query_and_begin_on_the_first_page():
    fleet = [Snapshot(ScaleSet("s", "rg", f"web-{number:03d}", 60.0), 60.0) for number in range(250)]
    shown = page(*fleet, query=Query(search="web", sort="name", page=2))
    links = [attributes["href"] for attributes in shown.all("a")]
    for expected in (
        "?q=web&state=NoData&sort=name",
        "?q=web&polls=failing&sort=name",
        "?q=web&sort=-name",
        "?q=web&sort=-started",
        "?q=web&sort=name",
        "?q=web&sort=name&page=3",
        "./api/v1/scale-sets?q=web&sort=name&page=2",
        "?q=web&subscription=s&resource_group=rg&sort=name",
        "./metrics",
    ):
        assert expected in links
    assert "101 to 200 of 250 scale sets" in shown.text
    assert "Page 2 of 3" in shown.text
    assert [each.get("aria-sort") for each in shown.all("th")[:2]] == ["ascending", None]


def test_a_list_to_choose_from_ends_and_has_what_is_chosen():
    fleet = [Snapshot(ScaleSet("s", f"rg-{number:03d}", "web", 60.0), 60.0) for number in range(700)]
    shown = page(*fleet, query=Query(resource_group="RG-650"))
    groups = [each for each in shown.all("option") if each.get("value", "").lower().startswith("rg-")]
    assert [each["value"] for each in groups if "selected" in each] == ["RG-650"]
    assert len(groups) == 501
    assert "RG-650 (1)" in shown.text
    assert "and 200 more: search for them" in shown.text


def test_no_id_is_there_twice_and_every_label_has_its_field():
    shown = page(SNAPSHOT, Snapshot(replace(SCALE_SET, name="other"), 300.0))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"][1:] for each in shown.all("use")} <= set(ids)
    for name, attributes in shown.elements:
        for reference in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(reference, ids[0]) in ids, (name, attributes)


def test_nothing_on_the_page_needs_what_the_policy_forbids():
    shown = page(SNAPSHOT)
    assert [attributes for _, attributes in shown.elements if "style" in attributes] == []
    assert [name for _, attributes in shown.elements for name in attributes if name.startswith("on")] == []
    assert shown.all("style") == []
    names = {asset.name for asset in status.assets().values()}
    loaded = [each["src"] for each in shown.all("script")] + [each["href"] for each in shown.all("link")]
    assert {address.removeprefix("static/") for address in loaded} == names


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</textarea></style></title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066",
    "\x00\x1b[31m\r\n",
    "&lt;b&gt;",
)


def hostile(text: str) -> Snapshot:
    error = ApiError(text, text, text, text, text, (ErrorDetail(text, text, text),))
    upgrade = Upgrade(
        UpgradeState.FAULTED,
        NOW - 60,
        NOW,
        Progress(1, 2, 3, 4),
        error,
        text,
        Image(text, text, text, text, text, text, text, text),
        Rollback(1, 1, error),
        text,
    )
    scale_set = ScaleSet(text, text, text, 300.0, location=text, labels=(("label_team", text),))
    return Snapshot(scale_set, 300.0, History((upgrade,)), failure=Reason.MALFORMED, failure_message=text)


def structure(shown: Page) -> list[tuple[str, tuple[str, ...]]]:
    """Return the elements with the names of their attributes; how often text may be broken is left out."""
    return [(tag, tuple(attributes)) for tag, attributes in shown.elements if tag != "wbr"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_of_azure_stays_text(text: str):
    shown = page(hostile(text))
    assert structure(shown) == structure(page(hostile("harmless")))
    assert [each["href"] for each in shown.all("a") if not each["href"].startswith(("?", "./", "#"))] == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_of_a_link_stays_text(text: str):
    def shown(asked: str) -> Page:
        return page(SNAPSHOT, query=Query(search=asked, subscription=asked, resource_group=asked))

    assert structure(shown(text)) == structure(shown("harmless"))
    assert shown(text).all("input")[0]["value"] == text


@settings(max_examples=30)
@given(st.text(st.characters(), max_size=40))
def test_any_text_gives_a_page_and_a_document(text: str):
    query = Query(search=text[:10])
    Page(status.html([hostile(text)], query, NOW, "/metrics"))
    json.loads(status.document([hostile(text)], query, NOW))


def test_an_endless_answer_gives_a_bounded_page():
    text = "x" * 2048
    error = ApiError(text, "m" * 4096, text, text, "d" * 4096, (ErrorDetail(text, "n" * 4096, text),) * 1000)
    upgrades = tuple(Upgrade(UpgradeState.FAULTED, NOW - age, NOW, None, error) for age in range(1000))
    fleet = [
        Snapshot(replace(SCALE_SET, name=f"web-{number}"), 300.0, History(upgrades)) for number in range(3)
    ]
    assert len(status.html(fleet, Query(), NOW, "/metrics")) < 150_000
    assert len(status.document(fleet, Query(), NOW)) < 400_000


def test_a_past_beyond_azures_is_shown_and_azures_word_counts_more():
    contradicted = replace(FAULTED, state=UpgradeState.ROLLING_FORWARD, end=None)
    long_ago = Upgrade(UpgradeState.CANCELLED, NOW - 86_400 * 100, NOW - 86_400 * 100 + 60)

    def past(scale_set: ScaleSet) -> list[Upgrade]:
        assert scale_set is SCALE_SET
        return [contradicted, long_ago]

    shown = status.upgrades_of(SNAPSHOT, past)
    assert shown == (long_ago, EARLIER, FAULTED)
    assert "3 upgrades" in page(SNAPSHOT, past=past).text


def test_all_lines_of_a_page_reach_back_to_its_oldest_upgrade():
    long_ago = Upgrade(UpgradeState.CANCELLED, NOW - 86_400 * 100, NOW - 86_400 * 100 + 60)
    other = Snapshot(replace(SCALE_SET, name="Api"), 300.0, History((EARLIER,)))

    def past(scale_set: ScaleSet) -> list[Upgrade]:
        return [long_ago] if scale_set is SCALE_SET else []

    def stretches(shown: Page) -> list[str]:
        return [each["x"] for each in shown.all("rect") if each.get("y") == "14.5"]

    assert "60 days ago" in page(SNAPSHOT, other).text
    assert stretches(page(SNAPSHOT, other)) == ["160.0", "199.9", "160.0"]
    shown = page(SNAPSHOT, other, past=past)
    assert "100 days ago" in shown.text
    assert stretches(shown) == ["0.0", "176.0", "199.9", "176.0"]


def test_the_document_says_the_same():
    answer = json.loads(status.document([SNAPSHOT], Query(), NOW))
    (scale_set,) = answer.pop("scale_sets")
    assert answer == {
        "time": "2026-11-01T12:00:00.000Z",
        "total": 1,
        "matching": 1,
        "page": 1,
        "pages": 1,
        "next": None,
        "states": {
            "Faulted": 1,
            "RollingBack": 0,
            "RollingForward": 0,
            "Cancelled": 0,
            "Unknown": 0,
            "NoData": 0,
            "Completed": 0,
            "NeverUpgraded": 0,
        },
        "polls_failing": 0,
        "banners": [],
    }
    details = [
        {"code": "InstanceUnhealthy", "message": "It is unhealthy.", "target": f"web/{number}"}
        for number in range(10)
    ]
    assert scale_set == {
        "id": "/subscriptions/sub-1/resourcegroups/rg-web/providers/microsoft.compute/virtualmachinescalesets/web",
        "subscription_id": "Sub-1",
        "resource_group": "RG-Web",
        "name": "Web",
        "location": "westeurope",
        "source": "named",
        "labels": {"label_team": "payments"},
        "state": "Faulted",
        "upgrade": {
            "state": "Faulted",
            "started_by": "Platform",
            "start": "2026-11-01T10:58:00.000Z",
            "end": "2026-11-01T11:58:00.000Z",
            "duration_seconds": 3600.0,
            "version": "22.04.202611010",
            "code": "MaxUnhealthy",
            "last_progress": "2026-11-01T11:55:00.000Z",
            "instances": {"successful": 1200, "failed": 3, "in_progress": 0, "pending": 7},
            "image": {
                "publisher": "Canonical",
                "offer": "ubuntu",
                "sku": "22_04-lts",
                "version": "latest",
                "exact_version": "22.04.202611010",
                "id": None,
                "shared_gallery_image_id": None,
                "community_gallery_image_id": None,
            },
            "error": {
                "code": "MaxUnhealthy",
                "message": "Too many are unhealthy.",
                "target": "Web",
                "exception_type": "Unhealthy",
                "exception_detail": "it reported so",
                "details": details,
                "details_total": 12,
            },
            "rollback": {
                "successful": 5,
                "failed": 2,
                "error": {
                    "code": "InternalExecutionError",
                    "message": None,
                    "target": None,
                    "exception_type": None,
                    "exception_detail": None,
                    "details": [],
                    "details_total": 0,
                },
            },
        },
        "upgrades": [
            {
                "state": "Completed",
                "started_by": None,
                "start": "2026-10-20T12:00:00.000Z",
                "end": "2026-10-20T12:30:00.000Z",
                "duration_seconds": 1800.0,
                "version": "22.04.202611010",
                "code": None,
            },
            {
                "state": "Faulted",
                "started_by": "Platform",
                "start": "2026-11-01T10:58:00.000Z",
                "end": "2026-11-01T11:58:00.000Z",
                "duration_seconds": 3600.0,
                "version": "22.04.202611010",
                "code": "MaxUnhealthy",
            },
        ],
        "polls": {
            "interval_seconds": 300.0,
            "last": "2026-11-01T11:59:55.000Z",
            "last_success": "2026-11-01T11:59:55.000Z",
            "failure": None,
        },
    }


def test_the_document_leads_from_page_to_page():
    fleet = [Snapshot(ScaleSet("s", "rg", f"web-{number:03d}", 60.0), 60.0) for number in range(150)]
    first = json.loads(status.document(fleet, Query(search="web"), NOW))
    assert (len(first["scale_sets"]), first["next"]) == (100, "?q=web&page=2")
    last = json.loads(status.document(fleet, Query(search="web", page=2), NOW))
    assert (len(last["scale_sets"]), last["next"]) == (50, None)
    assert last["scale_sets"][0]["upgrade"] is None
    failing = Snapshot(SCALE_SET, 60.0, failure=Reason.TIMEOUT, failure_message="no answer")
    (only,) = json.loads(status.document([failing], Query(), NOW))["scale_sets"]
    assert only["polls"]["failure"] == {"reason": "timeout", "message": "no answer"}


def test_the_templates_load_nothing_from_elsewhere_and_are_small():
    files = {
        path.name: path.read_text() for path in Path(status.__file__).parent.joinpath("templates").iterdir()
    }
    assert set(files) == {"status.html", "status.css", "status.js", "icon.svg"}
    for name, text in files.items():
        code = "\n".join(line for line in text.splitlines() if not line.startswith("// "))
        assert "//" not in code.replace("http://www.w3.org/2000/svg", ""), name
    assert "url(" not in files["status.css"]
    assert "@import" not in files["status.css"]
    assert "innerHTML" not in files["status.js"]
