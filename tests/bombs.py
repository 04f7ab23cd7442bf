"""Answers that are made to take memory and time, and the largest that are accepted: for tests and measurements.

Each is all that a server sends to one request, made when it is needed, with what the client says of it: the message of
a ``malformed`` failure, or nothing where the answer is accepted.
"""

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MIB = 1024 * 1024
SUBSCRIPTION = "6c1e0f6a-4f0b-4c52-9d6e-0a3f5b7c9d11"


@dataclass(frozen=True, slots=True)
class Bomb:
    make: Callable[[], bytes]
    refused: str = ""
    slow: bool = False
    """Whether it takes seconds, which a measurement has and a test has not."""


def http(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"content-length": str(len(body)), "x-ms-request-id": "req-1"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def zipped(body: bytes) -> bytes:
    return http(gzip.compress(body, 1), content_encoding="gzip")


def filled(piece: bytes, size: int, before: bytes = b'{"value":[', after: bytes = b"]}") -> bytes:
    """Repeat a piece that ends in a comma between two others, up to a size."""
    return before + (piece * ((size - len(before) - len(after)) // len(piece)))[:-1] + after


def in_chunks(body: bytes, size: int) -> bytes:
    """Send a body in chunks of that size."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def details(number: int, message: str = "VM is unhealthy.") -> list[object]:
    return [
        {
            "code": f"RollingUpgradeInstanceUnhealthyError{index % 7}",
            "message": message,
            "target": f"web/virtualMachines/{index}",
        }
        for index in range(number)
    ]


def upgrade(start: int, error: object = None) -> object:
    return {
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": "westeurope",
        "properties": {
            "runningStatus": {
                "code": "Faulted",
                "startTime": f"2025-{start // 28 % 12 + 1:02}-{start % 28 + 1:02}T00:00:{start % 60:02}.123456+00:00",
                "completedTime": "2025-12-31T00:00:00.1234567+00:00",
            },
            "progress": {
                "successfulInstanceCount": 1,
                "failedInstanceCount": 2,
                "inProgressInstanceCount": 3,
                "pendingInstanceCount": 4,
            },
            "startedBy": "Platform",
            "targetImageReference": {"publisher": "Canonical", "offer": "ubuntu", "sku": "server", "version": "1.2.3"},
            "rollbackInfo": {"successfullyRolledbackInstanceCount": 0, "failedRolledbackInstanceCount": 1, "rollbackError": error},
            "error": error,
        },
    }  # fmt: skip


def history(entries: Iterable[object]) -> bytes:
    return json.dumps({"value": list(entries)}, separators=(",", ":")).encode()


def faulted(number: int, errors: int = 1000, message: str = "VM is unhealthy.") -> list[object]:
    """Return upgrades, each with so many errors about instances, and as many about their rollback."""
    return [upgrade(each, {"code": "E", "details": details(errors, message)}) for each in range(number)]


def row(number: int, tags: int = 10, padding: int = 0) -> object:
    """Write a scale set as Resource Graph and the list call do; padding stands for all else that is known of it."""
    group = f"rg-{number % 100}"
    return {
        "id": f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute"
        f"/virtualMachineScaleSets/set-{number}",
        "name": f"set-{number}",
        "location": "westeurope",
        "tags": {f"tag-{index}-{number}": f"value {index} {number}" for index in range(tags)},
        "properties": {
            "upgradePolicy": {"mode": "Rolling", "automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True}},
            "virtualMachineProfile": [{"caching": "ReadWrite", "createOption": "FromImage", "diskSizeGB": 128}]
            * (padding // 66),
        },
    }  # fmt: skip


def rows(key: str, number: int, tags: int = 10, padding: int = 0) -> bytes:
    found = [row(each, tags, padding) for each in range(number)]
    return json.dumps({key: found}, separators=(",", ":")).encode()


FULL = 8 * MIB

ENTRIES = "more than 1000 entries"
MARKS = "a value that holds more than 75000 values and keys"
LONG = "a value of more than 2097152 characters"
DEEP = "not JSON: maximum recursion depth exceeded"
MEMBERS = "more than 32 members in a page"

HISTORIES = {
    "8 MiB of empty entries": Bomb(lambda: zipped(filled(b"{},", FULL)), ENTRIES),
    "8 MiB of zeros": Bomb(lambda: zipped(filled(b"0,", FULL)), ENTRIES),
    "1 MiB of zeros": Bomb(lambda: http(filled(b"0,", MIB)), ENTRIES),
    "1 MiB of lists": Bomb(lambda: http(filled(b"[],", MIB)), ENTRIES),
    "1,001 entries": Bomb(lambda: http(history([{}] * 1001)), ENTRIES),
    "numbers of 4,300 digits": Bomb(lambda: zipped(filled(b"9" * 4300 + b",", FULL)), ENTRIES),
    "dense entries": Bomb(
        lambda: zipped(filled(b"{}," * 2700 + b"0],[", FULL, b'{"value":[[', b"0]]}")),
        "more than 400000 values and keys",
    ),
    "half-deep lists": Bomb(
        lambda: zipped(filled(b"[" * 900 + b"]" * 900 + b",", FULL)), "more than 400000 values and keys"
    ),
    "an entry of 1 MiB of lists": Bomb(
        lambda: http(filled(b"[[[[[[[[[]]]]]]]]],", MIB, b'{"value":[[', b"]]}")), MARKS
    ),
    "an entry of 8 MiB of zeros": Bomb(lambda: zipped(filled(b"0,", FULL, b'{"value":[[', b"]]}")), MARKS),
    "an entry of 1 MiB of floats": Bomb(lambda: http(filled(b"1e5,", MIB, b'{"value":[[', b"]]}")), MARKS),
    "an entry of many keys": Bomb(
        lambda: zipped(
            b'{"value":[{' + b",".join(b'"%x":0' % number for number in range(FULL // 11)) + b"}]}"
        ),
        MARKS,
    ),
    "a string of 8 MiB": Bomb(lambda: zipped(b'{"value":["' + b"x" * (FULL - 14) + b'"]}'), LONG),
    "escapes of 8 MiB": Bomb(
        lambda: zipped(b'{"value":["' + b"\\ud83d\\ude00" * (FULL // 12 - 2) + b'"]}'), LONG
    ),
    "a number of 8 MiB": Bomb(lambda: zipped(b'{"value":[' + b"9" * (FULL - 12) + b"]}"), LONG),
    "a string without an end": Bomb(lambda: zipped(b'{"value":[{"a":"' + b"x" * (FULL - 17)), LONG),
    "deep lists": Bomb(lambda: zipped(b'{"value":' + b"[" * (FULL - 9)), DEEP),
    "deep objects": Bomb(lambda: zipped(b'{"value":' * (FULL // 9)), DEEP),
    "many members": Bomb(
        lambda: zipped(b"{" + b",".join(b'"%x":0' % number for number in range(FULL // 11)) + b"}"), MEMBERS
    ),
    "one member again and again": Bomb(
        lambda: zipped(b"{" + (b'"value":[],' * (FULL // 11 - 1))[:-1] + b"}"), MEMBERS
    ),
    "a gzip of 256 MiB": Bomb(lambda: zipped(bytes(256 * MIB)), "more than 8388608 bytes"),
    "a nextLink of 2 MiB": Bomb(
        lambda: zipped(b'{"value":[],"nextLink":"http://127.0.0.1/' + b"x" * (2 * MIB - 50) + b'"}'),
        "nextLink leads elsewhere: http://127.0.0.1/xxx",
    ),
    "10,001 details": Bomb(
        lambda: zipped(history([*faulted(5), upgrade(5, {"details": [{}]})])),
        "more than 10000 details of errors",
    ),
    "a string of 2 MB": Bomb(lambda: zipped(b'{"value":["' + b"x" * 2_000_000 + b'"]}')),
    "a float of 2 MB": Bomb(lambda: zipped(b'{"value":[1.' + b"3" * 2_000_000 + b"]}")),
    "white space": Bomb(lambda: zipped(b'{"value":[' + b" " * (FULL - 12) + b"]}")),
    "chunks of one byte": Bomb(lambda: in_chunks(history(faulted(1, 500)), 1)),
    "huge headers": Bomb(
        lambda: http(b'{"value":[]}', **{f"x_{n}": "a" * 8000 for n in range(60)}).replace(
            b"\r\n\r\n", b"\r\nx-ms-ratelimit-remaining-resource: " + b",aaaa.aaaa" * 800 + b"\r\n\r\n", 1
        )
    ),
    "1,000 entries": Bomb(lambda: http(history(upgrade(n) for n in range(1000)))),
    "1,000 entries, 10,000 details": Bomb(
        lambda: zipped(history(upgrade(n, {"details": details(5)}) for n in range(1000)))
    ),
    "5 entries, 10,000 details, 7 MiB": Bomb(lambda: zipped(history(faulted(5, 1000, "m" * 650)))),
    "1,000 entries, 7 MiB": Bomb(
        lambda: zipped(history(upgrade(n, {"code": "c" * 2000, "message": "m" * 1000}) for n in range(1000)))
    ),
}
"""Answers to a poll."""

SEARCHES = {
    "1,001 rows": Bomb(lambda: zipped(rows("data", 1001)), "more than 1000 entries in a page"),
    "64 MiB of zeros": Bomb(
        lambda: zipped(filled(b"0,", 64 * MIB, b'{"data":[')), "more than 1000 entries in a page"
    ),
    "a row of 500,000 tags": Bomb(lambda: zipped(rows("data", 1, 500_000)), MARKS),
    "rows of 501 tags": Bomb(lambda: zipped(rows("data", 1000, 501)), "more than 500000 tags", slow=True),
    "65 MiB": Bomb(lambda: zipped(b'{"data":[]}'.ljust(65 * MIB)), "more than 67108864 bytes"),
    "rows of 500 tags": Bomb(lambda: zipped(rows("data", 1000, 500)), slow=True),
    "rows of 60 KB": Bomb(lambda: zipped(rows("data", 1000, 50, 58_000)), slow=True),
}
"""Answers of Resource Graph to a search."""

LISTS = {
    "100,001 entries": Bomb(lambda: zipped(filled(b"0,", 200_020)), "more than 100000 entries"),
    "64 MiB of zeros": Bomb(lambda: zipped(filled(b"0,", 64 * MIB)), "more than 100000 entries"),
    "2,000 scale sets, 16 MiB": Bomb(lambda: zipped(rows("value", 2_000, 10, 7_000))),
    "8,000 scale sets, 63 MiB": Bomb(lambda: zipped(rows("value", 8_000, 10, 7_000)), slow=True),
    "100,000 scale sets": Bomb(lambda: zipped(rows("value", 100_000, 2)), slow=True),
}
"""Answers to a list call."""
