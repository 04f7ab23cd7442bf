"""Runs the exporter on a simulated fleet for a while, and draws the dashboards on what Prometheus saw of it.

Grafana's own panels are drawn by the page beside this file, in Chromium; no Grafana runs. Its first argument is that
page, bundled. With ``--status-page`` it draws the status page instead, which takes a few seconds.
"""

import asyncio
import json
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, ViewportSize, async_playwright, expect

from tests.dashboards import DASHBOARDS, Watched, chosen, watched
from tests.processes import exporter

PICTURES = Path(__file__).parents[2] / ".github" / "pictures"
WIDTH = 1600
SCALE_SETS = 60
"""Of the status page."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium until the block ends."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        await browser.close()


def given(dashboard: Path, fleet: Watched, minutes: float) -> dict[str, object]:
    """Return what the page draws: a dashboard that shows the last so many minutes."""
    return {
        "dashboard": json.loads(dashboard.read_text())
        | {"time": {"from": f"now-{minutes:.0f}m", "to": "now"}},
        "prometheus": fleet.url,
        "variables": chosen(dashboard.stem, fleet.lively),
        "width": WIDTH,
    }


async def draw(browser: Browser, script: Path, dashboard: Path, fleet: Watched, minutes: float) -> None:
    """Draw one dashboard."""
    page = await browser.new_page(viewport={"width": WIDTH, "height": 1000})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    # As if Prometheus served it: it may ask there, and has storage, which Grafana's components want.
    await page.route("**/picture", lambda route: route.fulfill(body="", content_type="text/html"))
    await page.goto(f"{fleet.url}/picture")
    await page.evaluate("given => { window.shown = given; }", given(dashboard, fleet, minutes))
    await page.add_style_tag(path=script.with_suffix(".css"))
    await page.add_script_tag(path=script)
    while not ((title := await page.title()) or problems):
        await page.wait_for_timeout(100)
    # Only what is in view is drawn, and charts when they are measured.
    height = await page.evaluate("document.documentElement.scrollHeight")
    await page.set_viewport_size({"width": WIDTH, "height": height})
    await page.wait_for_timeout(1500)
    if title != "drawn" or problems:
        sys.exit("\n".join((title, *problems)))
    await page.screenshot(path=PICTURES / f"{dashboard.stem}.png")
    await page.close()


async def draw_all(script: Path, fleet: Watched, minutes: float) -> None:
    """Draw every dashboard."""
    async with chromium() as browser:
        for dashboard in sorted(DASHBOARDS.glob("*.json")):
            await draw(browser, script, dashboard, fleet, minutes)
            print(f"drawn: {dashboard.stem}")


STATUS_PAGES: dict[str, tuple[ViewportSize, float, Literal["light", "dark"]]] = {
    "status-page": ({"width": WIDTH, "height": 900}, 1, "light"),
    "status-page-dark": ({"width": WIDTH, "height": 900}, 1, "dark"),
    "status-page-narrow": ({"width": 400, "height": 880}, 2, "light"),
}
"""Each picture's view, how fine it is drawn, and its colours."""


async def draw_status_pages() -> None:
    """Draw the status page of a demo whose time runs as Azure's does, once every scale set has been polled."""
    fleet = f"--simulator.scale-sets={SCALE_SETS}", "--simulator.speed=1"
    async with exporter("demo", *fleet) as daemon, chromium() as browser:
        await daemon.until_ready()
        for name, (viewport, scale, scheme) in STATUS_PAGES.items():
            page = await browser.new_page(
                viewport=viewport, device_scale_factor=scale, color_scheme=scheme, reduced_motion="reduce"
            )
            await page.goto(daemon.url)
            polled = page.get_by_role("link", name="0 No data", exact=True)
            while not await polled.count():
                await page.wait_for_timeout(1000)
                await page.reload()
            await expect(page.locator("tbody tr")).to_have_count(SCALE_SETS)
            await page.screenshot(path=PICTURES / f"{name}.png")
            await page.close()
            print(f"drawn: {name}")


async def main(script: Path, minutes: float) -> None:
    """Watch the fleet for so many minutes, then draw."""
    with tempfile.TemporaryDirectory() as folder:
        async with watched(Path(folder), scale_sets=30, speed=12.0, scrape_interval="5s") as fleet:
            print(f"watching a simulated fleet for {minutes:.0f} minutes: {fleet.url}")
            await asyncio.sleep(60 * minutes)
            await draw_all(script, fleet, minutes)


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m tests.pictures")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("script", type=Path, nargs="?")
    what.add_argument("--status-page", action="store_true")
    parser.add_argument("--minutes", type=float, default=15.0)
    flags = parser.parse_args()
    asyncio.run(draw_status_pages() if flags.status_page else main(flags.script, flags.minutes))
