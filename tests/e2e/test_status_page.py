"""The status page in a real browser: what is seen, what is kept over a refresh, and what hostile text cannot do."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from time import time
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    ViewportSize,
    async_playwright,
    expect,
)

from exporter.address import Address
from exporter.banners import DiscoveryStatus, SignInFailure
from exporter.exposition import Exposition
from exporter.history import ApiError, ErrorDetail, History, Image, Progress, Rollback, Upgrade, UpgradeState
from exporter.scale_set import ScaleSet
from exporter.snapshot import Reason, Snapshot
from exporter.status import Past, nothing
from exporter.store import Store
from exporter.telemetry import Telemetry
from exporter.web import Server, application
from tests.processes import debian_program

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = ViewportSize(width=1600, height=900), ViewportSize(width=400, height=800)
REFRESH_MILLISECONDS = 16_000
DAY = 86_400.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = debian_program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        await browser.close()


@dataclass
class Site:
    """The status page, served; what it shows is the test's to say."""

    url: str = ""
    known: tuple[Snapshot, ...] = ()
    discovered: tuple[DiscoveryStatus, ...] = ()
    broken: bool = False
    healthy: bool = True
    ready: bool = True
    configuration: str = ""
    complaints: list[str] = field(default_factory=list)
    """What the browser's console said, and requests to elsewhere."""

    def discoveries(self) -> tuple[DiscoveryStatus, ...]:
        return self.discovered

    def sign_in_failures(self) -> tuple[SignInFailure, ...]:
        return ()

    def past(self) -> AbstractContextManager[Past]:
        return nullcontext(nothing)

    def snapshots(self) -> tuple[Snapshot, ...]:
        if self.broken:
            raise RuntimeError("out of order")
        return self.known

    async def reload(self) -> str:
        return ""

    async def open(self, context: BrowserContext, path: str = "/") -> Page:
        """Open the page, with a clock that the test can turn; note what a browser objects to."""
        page = await context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._elsewhere(request.url))
        await page.clock.install()
        await page.goto(self.url + path)
        return page

    def _elsewhere(self, url: str) -> None:
        if not url.startswith(self.url):
            self.complaints.append(url)


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    site = Site(known=fleet())
    server = Server(application(Exposition(Store(), Telemetry()), Telemetry(), site, "/metrics"))
    (address,) = await server.start([Address("127.0.0.1", 0)])
    site.url = f"http://{address}"
    yield site
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with await browser.new_context(viewport=WIDE) as context:
        context.set_default_timeout(10_000)
        yield context


def upgrade(state: UpgradeState, age: float, **facts: object) -> Upgrade:
    start = time() - age
    image = Image("Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts-gen2", "latest", "22.04.202611010")
    end = None if state.active else start + 1800
    whole = Upgrade(state, start, end, Progress(38, 0, 0, 0), started_by="Platform", image=image)
    return replace(whole, **facts)  # type: ignore[arg-type]


def snapshot(name: str, *upgrades: Upgrade, failure: Reason | None = None, message: str = "") -> Snapshot:
    scale_set = ScaleSet("1e2feb89-414c-443c-9027-c4d1c386bbc4", "rg-web", name, 300.0)
    return Snapshot(
        scale_set, 300.0, History(upgrades), last_success=time(), failure=failure, failure_message=message
    )


TOO_MANY = ApiError(
    "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade",
    "33% of instances are in an unhealthy state after being upgraded.",
    "api",
    details=(ErrorDetail("RollingUpgradeInstanceUnhealthyError", "Instance is unhealthy.", "api/0"),),
)


def fleet() -> tuple[Snapshot, ...]:
    faulted = upgrade(
        UpgradeState.FAULTED, 7200, progress=Progress(20, 6, 0, 14), error=TOO_MANY, rollback=Rollback(5, 1)
    )
    rolling = upgrade(UpgradeState.ROLLING_FORWARD, 600, progress=Progress(12, 0, 4, 24))
    past = [upgrade(UpgradeState.COMPLETED, days * DAY) for days in (12, 24, 36)]
    return (
        snapshot("api", faulted, *past),
        snapshot("web", rolling, *past),
        snapshot("back", upgrade(UpgradeState.ROLLING_BACK, 700, progress=Progress(1, 2, 3, 4))),
        snapshot("halted", upgrade(UpgradeState.CANCELLED, DAY)),
        snapshot("odd", upgrade(UpgradeState.UNKNOWN, DAY)),
        snapshot("slow", past[0], failure=Reason.THROTTLED, message="the subscription is paused"),
        snapshot("young"),
        replace(snapshot("new"), history=None, last_success=None),
        *(snapshot(f"batch-{number:02d}", *past) for number in range(30)),
    )


@pytest.mark.parametrize("width", [400, 640, 1000, 1440, 1441, 1600])
async def test_nothing_sticks_out_or_is_objected_to(browser: Browser, site: Site, width: int):
    endless = "x" * 600
    site.known += (
        snapshot(endless[:64], upgrade(UpgradeState.FAULTED, 60, error=ApiError(endless, endless, endless))),
    )
    async with await browser.new_context(viewport={"width": width, "height": 800}) as context:
        page = await site.open(context)
        await expect(page.locator("tbody tr")).to_have_count(39)
        await page.evaluate(OPEN)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert site.complaints == []


PIXELS = """async (png) => {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${png}`)).blob());
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const pixels = new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer);
  const [colours, rows] = [new Map(), new Set()];
  pixels.forEach((pixel, index) => {
    colours.set(pixel, (colours.get(pixel) ?? 0) + 1);
    if (pixel !== pixels[0]) rows.add(Math.floor(index / image.width));
  });
  return { size: [image.width, image.height], corner: pixels[0] & 255, colours: colours.size, rows: rows.size,
    most: Math.max(...colours.values()) / pixels.length };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_the_page_is_drawn_from_top_to_bottom(
    browser: Browser, site: Site, scheme: Literal["light", "dark"], viewport: ViewportSize
):
    async with await browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = await site.open(context)
        await expect(page.locator("tbody tr")).to_have_count(38)
        png = b64encode(await page.screenshot()).decode()
        assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        drawn = await (await context.new_page()).evaluate(PIXELS, png)
        assert drawn["size"] == [viewport["width"], viewport["height"]]
        assert drawn["corner"] > 220 if scheme == "light" else drawn["corner"] < 40
        assert drawn["colours"] > 100
        assert drawn["most"] < 0.9
        assert drawn["rows"] > 0.6 * viewport["height"]


OPEN = "document.querySelectorAll('details').forEach((each) => (each.open = true))"
CONTRASTS = """() => {
  const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const luminance = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = channels(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    throw new Error("no background");
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!text || !element.checkVisibility() || element.closest(".unseen, option, title")) continue;
    const [one, other] = [channels(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) found[text] = contrast;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_text_stands_out_from_what_is_behind_it(
    browser: Browser, site: Site, scheme: Literal["light", "dark"], viewport: ViewportSize
):
    """As WCAG 2.2 demands for level AA: 4.5 to 1."""
    async with await browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = await site.open(context)
        await page.evaluate(OPEN)
        assert await page.evaluate(CONTRASTS) == {}


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_a_screen_reader_is_told_of_a_table_and_its_states(
    browser: Browser, site: Site, viewport: ViewportSize
):
    async with await browser.new_context(viewport=viewport) as context:
        page = await site.open(context, "/?q=api")
        table = page.get_by_role("table", name="Scale sets and their latest OS upgrades.")
        await expect(table.get_by_role("row")).to_have_count(2)
        row = table.get_by_role("row").nth(1)
        await expect(row.get_by_role("rowheader")).to_contain_text("api")
        cells = row.get_by_role("cell")
        await expect(cells).to_have_count(7)
        await expect(cells.nth(0)).to_have_text("Faulted")
        await expect(cells.nth(1)).to_have_text("20 successful 6 failed 14 pending", use_inner_text=True)
        await expect(page.get_by_role("status").first).to_have_text("1 to 1 of 1 scale sets, 38 in all")
        await expect(page.get_by_role("searchbox", name="Search")).to_have_value("api")
        for name in ("State", "Subscription", "Resource group", "Sort"):
            await expect(page.get_by_role("combobox", name=name, exact=True)).to_be_visible()


async def test_counts_are_links_that_filter(context: BrowserContext, site: Site):
    page = await site.open(context, "/?q=a")
    await page.get_by_role("link", name="1 Faulted").click()
    assert page.url == f"{site.url}/?q=a&state=Faulted"
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("link", name="1 Faulted")).to_have_attribute("aria-current", "true")
    await page.get_by_role("link", name="Clear").click()
    await page.get_by_role("link", name="1 Polls failing").click()
    await expect(page.locator("tbody tr")).to_contain_text("throttled")
    await expect(page.get_by_role("checkbox", name="Polls failing")).to_be_checked()


async def test_the_form_asks_by_query_string_so_that_the_link_can_be_shared(
    context: BrowserContext, site: Site
):
    page = await site.open(context)
    await page.get_by_role("searchbox").fill("batch")
    await page.get_by_role("combobox", name="State").select_option("Completed")
    await page.get_by_role("combobox", name="Sort").select_option("-started")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(30)
    shared = await site.open(context, page.url.removeprefix(site.url))
    assert (
        await shared.locator("tbody th").all_inner_texts() == await page.locator("tbody th").all_inner_texts()
    )
    await expect(shared.get_by_role("combobox", name="Sort")).to_have_value("-started")


async def test_columns_sort_either_way(context: BrowserContext, site: Site):
    page = await site.open(context)
    for order, first in (("ascending", "api"), ("descending", "young")):
        await page.get_by_role("link", name="Scale set", exact=True).click()
        header = page.get_by_role("columnheader", name="Scale set")
        await expect(header).to_have_attribute("aria-sort", order)
        await expect(page.locator("tbody .strong").first).to_have_text(first)


async def test_all_can_be_reached_by_keyboard(context: BrowserContext, site: Site):
    page = await site.open(context, "/?state=Faulted")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the scale sets")).to_be_focused()
    await expect(page.get_by_role("link", name="Skip to the scale sets")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.matches('.errors summary')"):
            break
    message = page.get_by_text("33% of instances")
    await expect(message).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(message).to_be_visible()
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


SEEN = """() => {
  const focused = document.activeElement, box = focused.getBoundingClientRect();
  if (focused === document.body) return "";
  const seen = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  const told = `${focused.tagName} ${focused.textContent.trim()}`;
  return focused.contains(seen) ? told : `hidden: ${told}`;
}"""


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_what_has_the_focus_is_seen(browser: Browser, site: Site, viewport: ViewportSize):
    async with await browser.new_context(viewport=viewport) as context:
        page = await site.open(context, "/?q=api")
        told = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            told.append(await page.evaluate(SEEN))
            if not told[-1]:
                break
            assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert told[-1] == ""
        assert [each for each in told if each.startswith("hidden")] == []
        titles = ["Scale set", "State▲", "Started", "Target image", "Freshness"]
        assert [each[2:] for each in told if each[2:] in titles] == titles


TOO_SMALL = """() => [...document.querySelectorAll("main *, nav *")]
  .filter((each) => each.matches("a, summary, button, select, input") && each.checkVisibility() && !each.closest(".more"))
  .filter((each) => !(innerWidth < 1440 && each.closest("thead")))
  .map((each) => [each.textContent.trim(), each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 23.9 || box.height < 23.9)
  .map(([text, box]) => `${text} ${box.width} x ${box.height}`)"""


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_what_can_be_clicked_is_large_enough(browser: Browser, site: Site, viewport: ViewportSize):
    """As WCAG 2.2 demands for level AA: 24 pixels either way."""
    site.known = tuple(
        replace(each, scale_set=replace(each.scale_set, name=f"{number}"))
        for number, each in enumerate(site.known * 3)
    )
    async with await browser.new_context(viewport=viewport) as context:
        page = await site.open(context)
        await expect(page.locator(".pager").first).to_be_visible()
        assert await page.evaluate(TOO_SMALL) == []


async def top_of(locator: Locator) -> float:
    box = await locator.bounding_box()
    assert box is not None
    return box["y"]


async def test_a_refresh_shows_what_is_new_and_keeps_the_place(context: BrowserContext, site: Site):
    page = await site.open(context, "/?sort=name")
    api, batch = (page.locator("tbody tr").filter(has_text=name) for name in ("api", "batch-20"))
    await api.locator(".errors summary").click()
    await page.get_by_role("searchbox").fill("half a wo")
    focused = batch.locator(".past summary")
    await focused.click()
    await focused.focus()
    await batch.evaluate("row => scrollTo(0, scrollY + row.getBoundingClientRect().top - 100)")
    kept = await batch.element_handle()
    top = await top_of(batch)
    others = tuple(each for each in site.known if each.scale_set.name != "batch-20")
    faulted = snapshot(
        "batch-20", upgrade(UpgradeState.FAULTED, 60, error=ApiError("InternalExecutionError"))
    )
    new = [snapshot(f"aaa-{number}", upgrade(UpgradeState.COMPLETED, DAY)) for number in range(4)]
    site.known = (*(each for each in others if each.scale_set.name != "batch-05"), faulted, *new)
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    await expect(batch.locator(".badge")).to_have_text("Faulted")
    await expect(page.locator("tbody .strong").first).to_have_text("aaa-0")
    await expect(page.locator("tbody tr").filter(has_text="batch-05")).to_have_count(0)
    await expect(page.get_by_role("link", name="2 Faulted")).to_have_count(1)
    assert await batch.evaluate("(row, kept) => row === kept", kept)
    assert abs(await top_of(batch) - top) < 2
    await expect(focused).to_be_focused()
    assert await batch.locator(".past details").evaluate("each => each.open")
    await expect(page.get_by_text("33% of instances")).to_be_visible()
    await expect(page.get_by_role("searchbox")).to_have_value("half a wo")
    await expect(page).to_have_title("2 faulted of 41 · OS upgrades of scale sets")
    assert site.complaints == []


async def test_a_row_that_moves_keeps_the_focus_and_stays_open(context: BrowserContext, site: Site):
    page = await site.open(context)
    batch = page.locator("tbody tr").filter(has_text="batch-20")
    await batch.locator(".past summary").click()
    await batch.locator(".past summary").focus()
    others = tuple(each for each in site.known if each.scale_set.name != "batch-20")
    site.known = (*others, snapshot("batch-20", upgrade(UpgradeState.FAULTED, 60)))
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    await expect(page.locator("tbody .strong").first).to_have_text("batch-20")
    await expect(batch.locator(".past summary")).to_be_focused()
    assert await batch.locator(".past details").evaluate("each => each.open")


@pytest.mark.parametrize("sort", ["name", "attention"])
async def test_a_refreshed_page_is_the_page_that_a_reload_gives(
    context: BrowserContext, site: Site, sort: str
):
    page = await site.open(context, f"/?sort={sort}")
    site.known = (
        *(replace(each, last_success=None) for each in site.known[3:20]),
        snapshot("zzz", upgrade(UpgradeState.CANCELLED, 2 * DAY)),
        replace(site.known[0], history=site.known[1].history),
        snapshot("batch-99", failure=Reason.TIMEOUT, message="no answer within 30 s"),
    )
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    await expect(page.locator("tbody tr")).to_have_count(20)
    words = """() => ["#glance", "#scale-sets"].map((each) => document.querySelector(each).innerText).join()
      .replace(/As of .*/, "").replace(/[0-9]+ s ago|now/g, "lately")"""
    refreshed = await page.evaluate(words)
    await page.reload()
    assert refreshed == await page.evaluate(words)


async def test_a_fleet_that_comes_and_goes_is_followed(context: BrowserContext, site: Site):
    everything, site.known = site.known, ()
    page = await site.open(context)
    for known, text in (
        (everything, "1 to 38 of 38 scale sets"),
        ((), "No scale sets yet"),
        (everything[:2], "1 to 2 of 2"),
    ):
        site.known = known
        await page.clock.fast_forward(REFRESH_MILLISECONDS)
        await expect(page.locator("#shown")).to_contain_text(text)
        await expect(page.locator("tbody tr")).to_have_count(len(known))


FAILED = DiscoveryStatus(
    "1e2feb89-414c-443c-9027-c4d1c386bbc4",
    failure=Reason.FORBIDDEN,
    failure_message="HTTP 403 AuthorizationFailed: The client has no authorization to perform action "
    "'Microsoft.Compute/virtualMachineScaleSets/read' over scope '/subscriptions/1e2feb89'.",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000, 1600])
async def test_banners_of_failing_subscriptions_fit_and_come_and_go_with_a_refresh(
    browser: Browser, site: Site, width: int, scheme: Literal["light", "dark"]
):
    endless = replace(FAILED, subscription_id="b" * 36, failure_message="x" * 700)
    notice = DiscoveryStatus("c" * 36, found=7)
    viewport = ViewportSize(width=width, height=900)
    async with await browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = await site.open(context)
        banners = page.locator(".banner")
        await expect(banners).to_have_count(0)
        site.known, site.discovered = (), (FAILED, endless, notice, replace(notice, subscription_id="d" * 36))
        await page.clock.fast_forward(REFRESH_MILLISECONDS)
        await expect(banners).to_have_count(4)
        await expect(banners.nth(0)).to_contain_text(
            "Discovery fails: forbidden in subscription 1e2feb89-414c"
        )
        await expect(banners.nth(2)).to_contain_text("Discovery found 7 scale sets and selects none.")
        await expect(banners.nth(3)).to_be_hidden()
        await expect(page.locator("#shown")).to_have_text("No scale sets: discovery fails")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await page.get_by_text("1 more").click()
        await expect(banners.nth(3)).to_be_visible()
        site.discovered = (notice,)
        await page.clock.fast_forward(REFRESH_MILLISECONDS)
        await expect(banners).to_have_count(1)
        await expect(page.locator("#shown")).to_have_text("No scale sets: discovery selects none")
        assert site.complaints == []


async def test_a_refresh_that_fails_says_so_until_one_succeeds(context: BrowserContext, site: Site):
    page = await site.open(context)
    site.broken = True
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    await expect(page.locator("#trouble")).to_have_text("Not refreshed: it answers 500")
    await expect(page.locator("tbody tr")).to_have_count(38)
    site.broken = False
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    await expect(page.locator("#trouble")).to_be_empty()


async def test_refreshing_can_be_paused(context: BrowserContext, site: Site):
    page = await site.open(context)
    pause = page.get_by_role("button", name="Pause refresh")
    await pause.click()
    await expect(pause).to_have_attribute("aria-pressed", "true")
    site.known = site.known[:1]
    await page.clock.fast_forward(10 * REFRESH_MILLISECONDS)
    await expect(page.locator("tbody tr")).to_have_count(38)
    await pause.click()
    await expect(page.locator("tbody tr")).to_have_count(1)


async def test_it_works_without_its_script(browser: Browser, site: Site):
    async with await browser.new_context(viewport=WIDE, java_script_enabled=False) as context:
        page = await context.new_page()
        await page.goto(f"{site.url}/?q=api")
        await expect(page.locator(".started time").first).to_have_text("2 h ago")
        await page.locator(".errors summary").click()
        await expect(page.get_by_text("33% of instances")).to_be_visible()
        await expect(page.get_by_role("button", name="Pause refresh")).to_be_hidden()


HOSTILE = """<img src=x onerror="parent.owned=1"><script>owned=1</script>'"><svg onload=owned=1>"""


async def test_hostile_text_is_shown_and_does_nothing_not_even_after_a_refresh(
    context: BrowserContext, site: Site
):
    error = ApiError(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (ErrorDetail(HOSTILE, HOSTILE, HOSTILE),))
    bad = upgrade(
        UpgradeState.FAULTED,
        60,
        error=error,
        started_by=HOSTILE,
        image=Image(*[HOSTILE] * 8),
        rollback=Rollback(1, 1, error),
    )
    page = await site.open(context)
    site.known = (snapshot(HOSTILE, bad, failure=Reason.MALFORMED, message=HOSTILE),)
    await page.clock.fast_forward(REFRESH_MILLISECONDS)
    for _ in range(2):
        await expect(page.locator("tbody .strong")).to_have_text(HOSTILE)
        await expect(page.locator(".fresh .more")).to_have_text(HOSTILE)
        assert (
            await page.evaluate(
                "document.querySelectorAll('main img, main script, [onerror], [onload]').length"
            )
            == 0
        )
        assert await page.evaluate("typeof owned") == "undefined"
        await page.goto(f"{site.url}/?q=onerror")
    assert site.complaints == []


async def test_the_browser_refuses_what_the_policy_forbids(context: BrowserContext, site: Site):
    page = await site.open(context)
    await page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "owned = 1";
          document.body.append(script);
          document.body.setAttribute("style", "display: none");
        }"""
    )
    assert await page.evaluate("typeof owned") == "undefined"
    assert await page.evaluate("getComputedStyle(document.body).display") == "block"
    refused = await page.evaluate("fetch('https://example.invalid/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert len([text for text in site.complaints if "Content Security Policy" in text]) >= 3
