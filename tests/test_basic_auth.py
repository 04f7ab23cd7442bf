"""Basic authentication: who is let in, and what it costs to ask."""

import asyncio
import base64
import threading

import bcrypt
import pytest

from exporter import basic_auth
from exporter.basic_auth import CHECKS_WAITING, TooManyChecksError, Users, credentials


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


def header(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Bcrypt:
    """The library, watched."""

    def __init__(self) -> None:
        self.costs: list[int] = []
        self.threads: set[int] = set()
        self.running = self.most_running = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.held_up = set(range(32))
        """The costs whose checks wait for ``go_on``."""

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        self.costs.append(int(hashed_password[4:6]))
        self.threads.add(threading.get_ident())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        assert int(hashed_password[4:6]) not in self.held_up or self.go_on.wait(10)
        self.running -= 1
        return bcrypt.checkpw(password, hashed_password)

    @property
    def rounds(self) -> int:
        return sum(2**cost for cost in self.costs)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Bcrypt:
    watched = Bcrypt()
    monkeypatch.setattr(basic_auth, "bcrypt", watched)
    return watched


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        (None, None),
        ("", None),
        ("Basic", None),
        ("Bearer YTpi", None),
        ("Basic YTpi", (b"a", b"b")),
        ("bASIC  YTpi ", (b"a", b"b")),
        ("Basic YTpiOmM=", (b"a", b"b:c")),
        ("Basic Og==", (b"", b"")),
        ("Basic YWI=", None),
        ("Basic YTpi!", None),
        ("Basic YTp", None),
        ("Basic ü", None),
        ("Basic " + base64.b64encode(b"a:" + b"x" * 80).decode(), (b"a", b"x" * 72)),
    ],
)
def test_credentials_are_read_from_the_header(
    authorization: str | None, expected: tuple[bytes, bytes] | None
):
    assert credentials(authorization) == expected


@pytest.mark.parametrize(
    ("authorization", "admitted"),
    [
        (header("alice", "wonderland"), True),
        (header("jürgen", "grüße"), True),
        (header("alice", "grüße"), False),
        (header("alice", ""), False),
        (header("bob", "wonderland"), False),
        (header("", ""), False),
        ("Basic nonsense", False),
        (None, False),
    ],
)
async def test_who_knows_a_password_is_let_in(authorization: str | None, admitted: bool):
    users = Users({"alice": hashed(b"wonderland"), "jürgen": hashed("grüße".encode())})
    for _ in range(2):
        assert await users.admit(authorization) is admitted


async def test_a_hash_of_htpasswd_is_understood():
    assert await Users({"alice": hashed(b"wonderland").replace("$2b$", "$2y$")}).admit(
        header("alice", "wonderland")
    )


async def test_what_bcrypt_leaves_out_of_a_password_does_not_matter():
    assert await Users({"alice": hashed(b"x" * 72)}).admit(header("alice", "x" * 100))


@pytest.mark.parametrize("name", ["dear", "cheap", "middling", "nobody"])
async def test_a_refusal_is_the_same_work_whoever_is_asked_for(watched: Bcrypt, name: str):
    users = Users({"cheap": hashed(b"a", 4), "middling": hashed(b"b", 5), "dear": hashed(b"c", 7)})
    assert not await users.admit(header(name, "wrong"))
    assert watched.rounds == 2**7


@pytest.mark.parametrize(
    ("name", "password", "cost"), [("cheap", "a", 4), ("middling", "b", 5), ("dear", "c", 7)]
)
async def test_a_good_password_costs_the_check_of_its_own_hash(
    watched: Bcrypt, name: str, password: str, cost: int
):
    users = Users({"cheap": hashed(b"a", 4), "middling": hashed(b"b", 5), "dear": hashed(b"c", 7)})
    assert await users.admit(header(name, password))
    assert watched.costs == [cost]


@pytest.mark.parametrize(
    ("name", "password"), [("dear", "b"), ("dear", "wrong"), ("nobody", "x"), ("cheap", "x")]
)
async def test_a_dear_check_does_not_hold_up_a_cheap_good_password(watched: Bcrypt, name: str, password: str):
    users = Users({"cheap": hashed(b"a", 4), "dear": hashed(b"b", 7)})
    watched.held_up = {7, 6, 5}
    watched.go_on.clear()
    others = [asyncio.create_task(users.admit(header(name, password))) for _ in range(CHECKS_WAITING - 1)]
    async with asyncio.timeout(10):
        assert await users.admit(header("cheap", "a"))
    watched.go_on.set()
    assert set(await asyncio.gather(*others)) == {(name, password) == ("dear", "b")}


async def test_a_check_runs_off_the_event_loop(watched: Bcrypt):
    await Users({"alice": hashed(b"a")}).admit(header("alice", "a"))
    assert watched.threads.isdisjoint({threading.get_ident()})


async def test_a_good_password_is_checked_once_and_a_wrong_one_each_time(watched: Bcrypt):
    users = Users({"alice": hashed(b"a"), "bob": hashed(b"b")})
    for password in ("a", "a", "wrong", "wrong", "a"):
        await users.admit(header("alice", password))
    assert len(watched.costs) == 3
    assert not await users.admit(header("bob", "a"))


async def test_checks_run_one_after_the_other_and_scrapes_that_wait_together_are_one(watched: Bcrypt):
    users = Users({"alice": hashed(b"a"), "bob": hashed(b"b")})
    watched.go_on.clear()
    asked = [
        asyncio.create_task(users.admit(header(name, password)))
        for name, password in (("alice", "a"), ("alice", "a"), ("bob", "b"), ("bob", "wrong"))
    ]
    await asyncio.sleep(0)
    watched.go_on.set()
    assert await asyncio.gather(*asked) == [True, True, True, False]
    assert (len(watched.costs), watched.most_running) == (3, 1)


async def test_who_guesses_keeps_out_neither_those_who_are_known_nor_others_for_long(watched: Bcrypt):
    users = Users({"alice": hashed(b"a"), "bob": hashed(b"b")})
    assert await users.admit(header("alice", "a"))
    watched.go_on.clear()
    guesses = [
        asyncio.create_task(users.admit(header("bob", str(number)))) for number in range(CHECKS_WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(TooManyChecksError):
        await users.admit(header("bob", "b"))
    assert await users.admit(header("alice", "a"))
    watched.go_on.set()
    assert not any(await asyncio.gather(*guesses))
    assert await users.admit(header("bob", "b"))
