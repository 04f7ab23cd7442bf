"""A client that costs next to nothing beside the servers it measures: requests on plain sockets."""

import socket
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Self

BUFFER_BYTES = 1024 * 1024
TIMEOUT_SECONDS = 60.0


class Connection:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._buffer = bytearray(BUFFER_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str, *, gzip: bool = False) -> int:
        """Ask once, read the answer to its last byte, and return the status."""
        return self._get(path, gzip, None)

    def body(self, path: str, *, gzip: bool = False) -> bytes:
        """Ask once, and return the body."""
        body = bytearray()
        self._get(path, gzip, body)
        return bytes(body)

    def _get(self, path: str, gzip: bool, body: bytearray | None) -> int:
        encoding = "Accept-Encoding: gzip\r\n" if gzip else ""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{encoding}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("no answer")
            head += received
        head, _, begun = head.partition(b"\r\n\r\n")
        left = _length(head) - len(begun)
        if body is not None:
            body += begun
        while left > 0:
            received_bytes = self._socket.recv_into(self._buffer)
            if not received_bytes:
                raise ConnectionError("cut short")
            if body is not None:
                body += self._buffer[:received_bytes]
            left -= received_bytes
        return int(head.split(b" ", 2)[1])


def rate(port: int, path: str, *, gzip: bool, connections: int, seconds: float) -> float:
    """Return the requests a second that a server answers on so many connections."""

    def ask(_: int) -> float:
        with Connection(port) as connection:
            connection.get(path, gzip=gzip)  # the first has more to do
            requests, started = 0, perf_counter()
            while (passed := perf_counter() - started) < seconds:
                connection.get(path, gzip=gzip)
                requests += 1
            return requests / passed

    with ThreadPoolExecutor(connections) as pool:
        return sum(pool.map(ask, range(connections)))


def _length(head: bytes) -> int:
    for header in head.split(b"\r\n"):
        header_name, _, value = header.partition(b":")
        if header_name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("no length")
