"""Just enough HTTP/1.1 for clients on the same machine, at a fraction of what http.server costs a request."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import NamedTuple

_LONGEST_WAIT = 3600.0


class Message(NamedTuple):
    """A request as it came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Connection:
    """A client's connection: whole requests in, frames out. `OSError` means that the client has gone."""

    __slots__ = ("_buffer", "_socket")

    def __init__(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = client
        self._buffer = bytearray()

    def close(self) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """From another thread: whatever the connection's own thread waits for ends at once."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def read(self) -> Message | None:
        """The next request; None when the client leaves or talks something other than HTTP."""
        try:
            return self._message()
        except (OSError, EOFError, ValueError):
            return None

    def send(self, frame: bytes) -> None:
        self._socket.sendall(frame)

    def lasts(self, seconds: float) -> bool:
        """Wait; False as soon as the client has gone."""
        end = time.monotonic() + seconds
        try:
            while (rest := end - time.monotonic()) > 0:
                self._socket.settimeout(min(rest, _LONGEST_WAIT))
                with suppress(TimeoutError):
                    self._fill()
            self._socket.settimeout(None)
        except (OSError, EOFError):
            return False
        return True

    def _message(self) -> Message:
        head = self._until(b"\r\n\r\n").decode("latin-1")
        start, *lines = head.split("\r\n")
        method, target, version = start.split(" ")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Message(method, target.partition("?")[0], headers, self._body(headers), keep_alive)

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunked()
        return self._exactly(int(headers.get("content-length", "0")))

    def _chunked(self) -> bytes:
        parts: list[bytes] = []
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            parts.append(self._exactly(size))
            self._until(b"\r\n")
        while self._until(b"\r\n"):  # trailers
            pass
        return b"".join(parts)

    def _until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            self._fill()
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def _fill(self) -> None:
        received = self._socket.recv(65536)
        if not received:
            raise EOFError
        self._buffer += received
