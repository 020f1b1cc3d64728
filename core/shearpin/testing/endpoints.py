"""The endpoints of the scripted provider: from a request to the answer it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from shearpin.testing import wire
from shearpin.testing.answer import Answer
from shearpin.testing.books import Books
from shearpin.testing.checks import bad_json, refusal, refused_embedding
from shearpin.testing.script import Completion, Failure, Hang, Request, Script, error

CHAT = "/v1/chat/completions"


class Endpoints:
    """Stateless but for the books, which number the requests the script sees."""

    def __init__(self, script: Script, books: Books, ids: wire.Ids) -> None:
        self._script = script
        self._books = books
        self._ids = ids
        self._routes: dict[str, tuple[str, Callable[[Request], Answer]]] = {
            CHAT: ("POST", self._chat),
            "/v1/embeddings": ("POST", self._embed),
            "/v1/models": ("GET", wire.models),
        }

    def answer(self, request: Request, raw: bytes) -> Answer:
        """Always an answer: what a script gets wrong, its author reads in the client's error."""
        try:
            answer = self._routed(request, raw)
        except Exception as bug:  # noqa: BLE001 - a script may raise anything
            text = f"The script failed: {type(bug).__name__}: {bug}"
            answer = wire.failure(error(400, text, code="script_failed"))
        answer.headers["x-request-id"] = self._ids.new("req_")
        return answer

    def _routed(self, request: Request, raw: bytes) -> Answer:
        if request.path not in self._routes:
            return wire.failure(error(404, f"Invalid URL ({request.method} {request.path})"))
        method, endpoint = self._routes[request.path]
        if request.method != method:
            return wire.failure(error(405, f"Not allowed to {request.method} on {request.path}."))
        if method == "POST":
            body = _parsed(raw)
            if body is None:
                return wire.failure(bad_json())
            request.body = body
        return endpoint(request)

    def _embed(self, request: Request) -> Answer:
        refused = refused_embedding(request)
        return wire.failure(refused) if refused else wire.embeddings(request)

    def _chat(self, request: Request) -> Answer:
        if refused := refusal(request):
            return wire.failure(refused)
        self._books.number(request)
        reply = cast("object", self._script(request))
        if isinstance(reply, Completion):
            return wire.completion(reply, request, self._ids)
        if isinstance(reply, Failure):
            return wire.failure(reply)
        if isinstance(reply, Hang):
            return Answer(0, [], delay=reply.seconds)
        raise TypeError(f"a script answers with a reply such as reply('text'), not {reply!r}")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None
