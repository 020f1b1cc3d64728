"""A response on its way: how it is cut into writes, and what of it is left out when it is to break off."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus

from shearpin.testing.script import NO_TOKENS, Tokens

_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """One response: a body, or the events of a stream. Status 0 means that nothing is ever sent."""

    status: int
    pieces: list[bytes]
    headers: dict[str, str] = field(default_factory=dict[str, str])
    stream: bool = False
    delay: float = 0.0
    pause: float = 0.0
    broken: bool = False
    tokens: Tokens = NO_TOKENS

    def writes(self) -> list[bytes]:
        """One, unless a stream is paced: then one for each event."""
        return self._streamed() if self.stream else [self._plain()]

    def _plain(self) -> bytes:
        body = b"".join(self.pieces)
        head = self._head({"content-type": "application/json", "content-length": str(len(body))})
        # The header promises the whole body, so half of it is a response that breaks off.
        return head + (body[: len(body) // 2] if self.broken else body)

    def _streamed(self) -> list[bytes]:
        framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.pieces] or [b""]
        framed[0] = (
            self._head({"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}) + framed[0]
        )
        framed[-1] += b"" if self.broken else _END
        return framed if self.pause > 0 else [b"".join(framed)]

    def _head(self, more: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in (more | self.headers).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
