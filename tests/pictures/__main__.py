"""Runs the exporter on a simulated fleet for a while, and draws the dashboards on what Prometheus saw of it.

Grafana's own panels are drawn by the page beside this file, in Chromium; no Grafana runs. Its first argument is that
page, bundled. With ``--status-page`` it draws the status page instead, which takes a few seconds, and with ``--past``
Prometheus' own graph of upgrades that were backfilled.
"""

import asyncio
import json
import os
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Literal
from urllib.parse import urlencode

import aiohttp
from playwright.async_api import Browser, ViewportSize, async_playwright, expect

from exporter.simulator.fleet import Fleet
from exporter.simulator.server import Simulator, config_for, running
from tests.dashboards import DASHBOARDS, Watched, chosen, watched
from tests.processes import exporter, free_address, query, running_program

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


PAST = "sum by (state) (azure_vmss_os_upgrade_state{state!~'Unknown|RollingBack'})"


async def draw_past() -> None:
    """Backfill the last weeks of a simulated fleet into an empty Prometheus, and draw what it then knows."""
    with tempfile.TemporaryDirectory() as name:
        folder, now = Path(name), time()
        fleet = Fleet(epoch=now, speed=1.0)
        async with running(Simulator(fleet, clock=lambda: now)) as url:
            (folder / "config.yaml").write_text(config_for(fleet, url))
            await run(
                *(sys.executable, "-m", "exporter", "backfill", f"--config.file={folder / 'config.yaml'}"),
                *("--from=60d", f"--output={folder / 'past.om'}"),
                IDENTITY_ENDPOINT=f"{url}/token",
                IDENTITY_HEADER="simulator",
            )
        blocks = "promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=744h"
        await run(*blocks, str(folder / "past.om"), str(folder / "data"))
        address = free_address()
        (folder / "prometheus.yml").write_text("{}")
        async with (
            running_program(
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=90d",
                f"--web.listen-address={address}",
            ),
            chromium() as browser,
            aiohttp.ClientSession() as client,
        ):
            while not await query(client, f"http://{address}", f"last_over_time({PAST}[1h:5m] offset 1d)"):
                await asyncio.sleep(0.2)
            page = await browser.new_page(viewport={"width": WIDTH, "height": 900})
            graph = {"g0.expr": PAST, "g0.tab": "0", "g0.stacked": "1", "g0.range_input": "30d"}
            await page.goto(f"http://{address}/classic/graph?{urlencode(graph)}")
            await page.wait_for_selector(".legend .line")
            await page.wait_for_timeout(1500)
            await page.screenshot(path=PICTURES / "backfill.png")
            print("drawn: backfill")


async def run(*command: str, **environment: str) -> None:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | environment)
    if await process.wait():
        sys.exit(f"failed: {command}")


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
    what.add_argument("--past", action="store_true")
    parser.add_argument("--minutes", type=float, default=15.0)
    flags = parser.parse_args()
    if flags.status_page:
        asyncio.run(draw_status_pages())
    elif flags.past:
        asyncio.run(draw_past())
    else:
        asyncio.run(main(flags.script, flags.minutes))
