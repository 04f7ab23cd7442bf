"""The body of a scrape: the store's lines and the exporter's own, in both formats, plain or as gzip.

Theory of operation. The store's lines are the bulk, serve both formats, and stand first; the exporter's own are few
and new for each scrape. So the bulk is compressed once per change of the store, in a thread, up to a full flush,
where DEFLATE may go on with anything; a scrape adds its own few lines behind it and the checksum, which goes on too.
A header that differs between the formats stands between two full flushes, in each format its own; what is around it
is shared. The result is one ordinary gzip member (RFC 1952). Scrapers that come while it is being made wait for it
together.
"""

import asyncio
import struct
from dataclasses import dataclass
from enum import Enum

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from exporter.store import Store
from exporter.telemetry import Telemetry

try:
    from isal import isal_zlib as zlib
except ImportError:  # six times the time, the same bytes once unpacked
    import zlib  # type: ignore[no-redef]

LEVEL = 1
"""The quickest of both that compresses."""


class Format(Enum):
    """The formats of an exposition; the value is the content type."""

    TEXT = CONTENT_TYPE_PLAIN_0_0_4
    OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class _Compressed:
    """Compressed lines, open for more behind them."""

    body: tuple[bytes, ...]
    checksum: int
    length: int


class Exposition:
    """Makes the bodies of scrapes."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._compressing = asyncio.Lock()
        self._compressed: dict[Format, _Compressed] = {}
        self._version = -1
        """Of the store, when it was last compressed."""

    def plain(self, in_format: Format) -> list[bytes]:
        """Return the exposition in pieces."""
        return [*self._lines(in_format), self._own(in_format)]

    async def gzip(self, in_format: Format) -> list[bytes]:
        """Return the exposition as gzip, in pieces."""
        wanted = self._store.version
        async with self._compressing:
            if self._version < wanted:
                pieces, version = [self._lines(each) for each in Format], self._store.version
                compressed = await asyncio.to_thread(_compress, pieces)
                self._compressed, self._version = dict(zip(Format, compressed, strict=True)), version
            bulk = self._compressed[in_format]
        own = self._own(in_format)
        deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        trailer = struct.pack("<LL", zlib.crc32(own, bulk.checksum), (bulk.length + len(own)) % 2**32)
        return [_GZIP_HEADER, *bulk.body, deflate.compress(own) + deflate.flush() + trailer]

    def _lines(self, in_format: Format) -> list[bytes]:
        return self._store.exposition(openmetrics=in_format is Format.OPENMETRICS)

    def _own(self, in_format: Format) -> bytes:
        generate = openmetrics.generate_latest if in_format is Format.OPENMETRICS else generate_latest
        body: bytes = generate(self._telemetry.registry)
        return body


_GZIP_HEADER = (
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952 section 2.3: deflate, no flags, no time, unknown system
)


def _compress(variants: list[list[bytes]]) -> list[_Compressed]:
    """Compress variants of the same lines, which differ in few pieces: what they share is compressed once."""
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    bodies: list[list[bytes]] = [[] for _ in variants]
    checksums = [0] * len(variants)
    shared: list[bytes] = []

    def flush() -> None:
        shared.append(deflate.flush(zlib.Z_FULL_FLUSH))
        together = b"".join(shared)
        for body in bodies:
            body.append(together)
        shared.clear()

    for pieces in zip(*variants, strict=True):
        piece = pieces[0]
        if all(each == piece for each in pieces):
            after = {checksum: zlib.crc32(piece, checksum) for checksum in set(checksums)}
            checksums = [after[checksum] for checksum in checksums]
            shared.append(deflate.compress(piece))
        else:
            flush()
            checksums = [zlib.crc32(each, checksum) for each, checksum in zip(pieces, checksums, strict=True)]
            for body, each in zip(bodies, pieces, strict=True):
                alone = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
                body.append(alone.compress(each) + alone.flush(zlib.Z_FULL_FLUSH))
    flush()
    lengths = [sum(map(len, pieces)) for pieces in variants]
    return [_Compressed(tuple(body), *rest) for body, *rest in zip(bodies, checksums, lengths, strict=True)]
