"""The endpoints of the scripted provider: from a request to the answer it gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from shearpin.testing.answer import Answer
from shearpin.testing.books import Books
from shearpin.testing.chat import completion
from shearpin.testing.checks import bad_json, refusal, refused_embedding
from shearpin.testing.embeddings import embeddings, models
from shearpin.testing.items import Memory
from shearpin.testing.request import RESPONSES, Request
from shearpin.testing.response_checks import refused_response, unknown_response
from shearpin.testing.responses import response
from shearpin.testing.script import Completion, Failure, Hang, Script, error
from shearpin.testing.wire import Ids, failure

CHAT = "/v1/chat/completions"


class Endpoints:
    """Stateless but for the books, which number the requests the script sees, and for what responses go on with."""

    def __init__(self, script: Script, books: Books, ids: Ids) -> None:
        self._script = script
        self._books = books
        self._ids = ids
        self._memory = Memory()
        self._routes: dict[str, tuple[str, Callable[[Request], Answer]]] = {
            CHAT: ("POST", self._chat),
            RESPONSES: ("POST", self._respond),
            "/v1/embeddings": ("POST", self._embed),
            "/v1/models": ("GET", models),
        }

    def answer(self, request: Request, raw: bytes) -> Answer:
        """Always an answer: what a script gets wrong, its author reads in the client's error."""
        try:
            answer = self._routed(request, raw)
        except Exception as bug:  # noqa: BLE001 - a script may raise anything
            text = f"The script failed: {type(bug).__name__}: {bug}"
            answer = failure(error(400, text, code="script_failed"))
        answer.headers["x-request-id"] = self._ids.new("req_")
        return answer

    def _routed(self, request: Request, raw: bytes) -> Answer:
        if request.path not in self._routes:
            return failure(error(404, f"Invalid URL ({request.method} {request.path})"))
        method, endpoint = self._routes[request.path]
        if request.method != method:
            return failure(error(405, f"Not allowed to {request.method} on {request.path}."))
        if method == "POST":
            body = _parsed(raw)
            if body is None:
                return failure(bad_json())
            request.body = body
        return endpoint(request)

    def _embed(self, request: Request) -> Answer:
        refused = refused_embedding(request)
        return failure(refused) if refused else embeddings(request)

    def _chat(self, request: Request) -> Answer:
        refused = refusal(request)
        return failure(refused) if refused else self._scripted(request, completion)

    def _respond(self, request: Request) -> Answer:
        previous = request.body.get("previous_response_id")
        earlier = [] if previous is None else self._memory.recall(previous)
        if earlier is None:
            return failure(unknown_response(previous))
        request.earlier = earlier
        refused = refused_response(request)
        return failure(refused) if refused else self._scripted(request, partial(response, memory=self._memory))

    def _scripted(self, request: Request, write: Callable[[Completion, Request, Ids], Answer]) -> Answer:
        self._books.number(request)
        reply = cast("object", self._script(request))
        if isinstance(reply, Completion):
            return write(reply, request, self._ids)
        if isinstance(reply, Failure):
            return failure(reply)
        if isinstance(reply, Hang):
            return Answer(0, [], delay=reply.seconds)
        raise TypeError(f"a script answers with a reply such as reply('text'), not {reply!r}")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None
