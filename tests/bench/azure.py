"""An Azure that costs next to nothing: canned answers by aiohttp's bare server, in a process of its own.

The simulator judges budgets, tokens and paths; here only the cost of the one who asks is of interest.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, repeat

from aiohttp import web

from .child import line, python, running
from .fleet import answer, upgrades_of

TOKEN = json.dumps(
    {"access_token": "canned", "expires_on": "4102444800", "resource": "x", "token_type": "Bearer"}
)


CHANGES = 97
"""Answers that a changing history goes through: a number that keeps each scale set of a batch from its last one."""


@contextmanager
def azure() -> Iterator[str]:
    """Run it; yield its base URL."""
    with running(*python("tests.bench.azure")) as process:
        yield line(process)


def name(entries: int, *, changing: bool = False) -> str:
    """Return the name of a scale set whose history has so many entries, and perhaps changes with each request."""
    return f"{'changing' if changing else 'entries'}-{entries}"


async def _serve() -> None:
    bodies: dict[str, Iterator[bytes]] = {}

    def answers(scale_set: str) -> Iterator[bytes]:
        kind, number = scale_set.rsplit("-", 1)
        index = int(number)
        if kind == "changing":
            return cycle([answer(0, index, generation) for generation in range(CHANGES)])
        return repeat(answer(0, index) if kind == "entries" else answer(index, upgrades_of(index)))

    async def respond(request: web.BaseRequest) -> web.Response:
        if request.path == "/token":
            token = {"access_token": "canned", "expires_on": "4102444800", "token_type": "Bearer"}
            token["resource"] = request.query["resource"]  # azure-identity keeps it under this name
            return web.Response(text=json.dumps(token), content_type="application/json")
        scale_set = request.path.rsplit("/", 2)[1]
        if scale_set not in bodies:
            bodies[scale_set] = answers(scale_set)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "x-ms-request-id": "c5f7f4f5-6d52-4f5c-9d3e-8d2b0f1d6d11",
            "x-ms-ratelimit-remaining-resource": "Microsoft.Compute/GetVMScaleSet3Min;2399",
        }
        return web.Response(body=next(bodies[scale_set]), headers=headers)

    runner = web.ServerRunner(web.Server(respond, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
