"""A provider on this machine that says what it was told to say: OpenAI's chat and Responses APIs, scripted."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Self

from shearpin.testing.answer import Answer
from shearpin.testing.books import Books
from shearpin.testing.connection import Connection, Message
from shearpin.testing.endpoints import CHAT, Endpoints
from shearpin.testing.request import RESPONSES, Request
from shearpin.testing.script import Reply, Script, Tokens, as_script
from shearpin.testing.wire import Ids

_PATIENCE = 0.15


class ScriptedServer:
    """An OpenAI-compatible server on a free port of the loopback interface; it serves as soon as it is made.

    `script` is a list of replies or a function `(request) -> Reply`, which is called in the thread of its
    request and may block. A list that is exhausted answers 400, as does a function that raises; with
    `repeat_last` the last reply of a list is served for ever. `keep` bounds how many requests are remembered
    (None: all are), `seed` makes the ids in responses repeatable.

    >>> from openai import OpenAI
    >>> from shearpin.testing import ScriptedServer, error, reply
    >>> with ScriptedServer([error(429, retry_after=0.01), reply("Hello")]) as server:
    ...     with OpenAI(base_url=server.base_url, api_key="any") as client:
    ...         asked = [{"role": "user", "content": "Hi"}]
    ...         chat = client.chat.completions.create(model="gpt-4o", messages=asked)
    >>> chat.choices[0].message.content, server.served, server.count(status=429)
    ('Hello', 1, 1)
    """

    def __init__(
        self,
        script: Script | Sequence[Reply],
        *,
        repeat_last: bool = False,
        keep: int | None = 1000,
        seed: str | None = None,
    ) -> None:
        self._books = Books(keep)
        ids = Ids(seed or os.urandom(16).hex())
        self._endpoints = Endpoints(as_script(script, repeat_last), self._books, ids)
        self._lock = threading.Lock()
        self._closing = False
        self._connections: dict[Connection, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = _thread(self._accept)

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given as its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection, also those that hang, and wait for their threads to end."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            connections = dict(self._connections)
        with suppress(OSError):  # a connection of our own: closing a listener wakes nobody out of accept()
            socket.create_connection(("127.0.0.1", self.port), _PATIENCE).close()
        for connection in connections:
            connection.hang_up()
        _join([self._acceptor, *connections.values()])
        self._listener.close()

    # --- what it counted

    @property
    def served(self) -> int:
        """Chat completions and responses answered with 200, a stream from its first byte on."""
        return self._books.count(CHAT, 200) + self._books.count(RESPONSES, 200)

    @property
    def requests(self) -> list[Request]:
        """The last requests of any kind, oldest first; at most `keep`."""
        return self._books.requests()

    def count(self, path: str | None = None, status: int | None = None) -> int:
        """Requests received at `path` ("/v1/embeddings"), or those answered with `status`; 0: not at all."""
        return self._books.count(path, status)

    @property
    def usage(self) -> Tokens:
        """What its answers used: all of a stream that was cut, too, or whose usage nobody asked for."""
        return self._books.usage

    @property
    def in_flight(self) -> int:
        """Requests being answered now."""
        return self._books.in_flight

    @property
    def peak_in_flight(self) -> int:
        """The most requests that were ever answered at once."""
        return self._books.peak_in_flight

    @property
    def disconnects(self) -> int:
        """Clients that left before they had their whole answer; see `wait_idle`."""
        return self._books.disconnects

    def wait_idle(self, seconds: float = 5.0) -> bool:
        """Wait until nothing is in flight: a client knows that it left before the server does."""
        return self._books.wait_idle(seconds)

    def reset(self) -> None:
        """Forget what was counted, and start a list of replies from its beginning."""
        self._books.reset()

    # --- connections

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:  # out of file descriptors, or the client has gone already
                time.sleep(0.01)
                continue
            self._welcome(client)

    def _welcome(self, client: socket.socket) -> None:
        with self._lock:
            if self._closing:
                client.close()
                return
            connection = Connection(client)
            self._connections[connection] = _thread(lambda: self._converse(connection))

    def _converse(self, connection: Connection) -> None:
        try:
            with closing(connection):
                while (message := connection.read()) and self._exchange(connection, message):
                    pass
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _exchange(self, connection: Connection, message: Message) -> bool:
        """Answer one request; False ends the connection."""
        request = Request(message.method, message.path, message.headers)
        self._books.enter(request)
        try:
            whole = self._transmit(connection, request, self._endpoints.answer(request, message.body))
            return whole and message.keep_alive
        except OSError:
            self._books.leave(request, disconnected=not self._closing)
            return False
        finally:
            self._books.leave(request)

    def _transmit(self, connection: Connection, request: Request, answer: Answer) -> bool:
        """Write the answer, counting before each write what the client will know after it."""
        if not connection.lasts(answer.delay):
            self._books.answer(request, 0)
            raise ConnectionError
        self._books.answer(request, answer.status, answer.tokens)
        if not answer.status:
            return False
        *events, last = answer.writes()
        for event in events:
            connection.send(event)
            if not connection.lasts(answer.pause):
                raise ConnectionError
        self._books.leave(request)
        connection.send(last)
        return not answer.broken


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="shearpin-scripted-server", daemon=True)
    thread.start()
    return thread


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for all of them, but not for a script that blocks, nor for a script that closes its own server."""
    end = time.monotonic() + _PATIENCE
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
