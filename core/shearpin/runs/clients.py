"""A provider's client under a guard: its calls of models are spans of the current run, let in before they are sent.

OpenAI's clients send everything through one method, `request`: chat completions, responses and embeddings, plain,
parsed, raw and streamed, with all retries of one call inside. The wrapped client is a copy of the original with another
`request`; its resources are made anew, since those of the original hold on to the original.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from shearpin.errors import EnforcementGapWarning
from shearpin.runs.reading import Reading, read_body
from shearpin.runs.requests import UNREAD, Asked, costs_unseen, read_request
from shearpin.runs.run import Run
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace import Span
from shearpin.trace.ambient import Here, claim, place_of
from shearpin.trace.providers import read_reply
from shearpin.trace.reply import Reply

Client = TypeVar("Client")

_CLIENTS = ("OpenAI", "AsyncOpenAI")
_SOCKETS = ("live", "realtime")
_GAP = (
    "pin.wrap counts chat completions, responses, completions and embeddings; {} costs money that no budget here sees: "
    "put it in a function decorated with pin.tool"
)


def wrap_client(client: Client, guard: object, here: Callable[[], Run]) -> Client:
    """A copy of `client` whose calls are let in by `guard`, in the run that `here` says. Raises TypeError."""
    if not _is_client(client):
        raise TypeError(
            "pin.wrap takes a client of the openai package: pin.wrap(OpenAI()), or an AsyncOpenAI, an AzureOpenAI, an "
            f"AsyncAzureOpenAI; not {client!r}"
        )
    gate = Gate(client, guard, here)
    gated: Any = copy.copy(client)
    parts: dict[str, Any] = gated.__dict__
    for name, part in list(parts.items()):
        if isinstance(part, _Unseen) or getattr(part, "__dict__", {}).get("_client") is client:
            del parts[name]
    gated.request = gate.arequest if inspect.iscoroutinefunction(gate.request_of_client) else gate.request
    gated.copy = gated.with_options = gate.copy
    wrapped = copy.copy(gated)
    for name in _SOCKETS:
        if hasattr(type(client), name):
            setattr(wrapped, name, _Unseen(gated, name, gate.say_unseen))
    return wrapped  # type: ignore[no-any-return]


def _is_client(client: object) -> bool:
    return any(
        base.__module__.partition(".")[0] == "openai" and base.__name__ in _CLIENTS for base in type(client).__mro__
    )


class Gate:
    """What stands in front of one client."""

    def __init__(self, client: Any, guard: object, here: Callable[[], Run]) -> None:  # noqa: ANN401 - the provider's
        self._client, self._guard, self._here = client, guard, here
        self._provider = "azure" if any("Azure" in base.__name__ for base in type(client).__mro__) else "openai"
        self._said: set[str] = set()
        self.request_of_client = client.request

    def copy(self, **options: Any) -> Any:  # noqa: ANN401 - the provider's
        """The client's own way to another one with other options: under the same guard."""
        return wrap_client(self._client.copy(**options), self._guard, self._here)

    def request(self, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        """The client's `request`, let in first."""
        asked = self._counts(options)
        if asked is None:
            return self.request_of_client(cast_to, options, *args, **kwargs)
        run = self._here()
        call = _Call(run, run.start(asked.kind, asked.model, **asked.fields), options)
        with call:
            answer = self.request_of_client(cast_to, options, *args, **kwargs)
        call.answered(answer)
        return answer

    async def arequest(self, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        """The same for a client whose `request` is a coroutine: it may wait for calls in flight."""
        asked = self._counts(options)
        if asked is None:
            return await self.request_of_client(cast_to, options, *args, **kwargs)
        run = self._here()
        call = _Call(run, await run.astart(asked.kind, asked.model, **asked.fields), options)
        with call:
            answer = await self.request_of_client(cast_to, options, *args, **kwargs)
        call.answered(answer)
        return answer

    def _counts(self, options: Any) -> Asked | None:  # noqa: ANN401 - as above
        """The call to count; None for one that is counted by a block or a framework around it, and for no call."""
        try:
            asked = read_request(options, self._provider)
            if asked is None and (path := costs_unseen(options)) is not None:
                self.say_unseen(path)
        except Exception as bug:  # noqa: BLE001 - ours, not the agent's: the rules are asked without what was not read
            raise_if_meant(bug, "reading of a request")
            asked = Asked("llm", UNREAD, {"request_model": UNREAD})
        if asked is None:
            return None
        place = place_of(self._guard)
        if place is not None and place.span.kind in ("llm", "embedding"):
            return None
        return None if asked.kind == "llm" and claim(self._guard) else asked

    def say_unseen(self, what: str) -> None:
        """Say once, and in every trace, that something costs money outside of the guard."""
        gap = _GAP.format(what)
        place = place_of(self._guard)
        if place is not None:
            place.run.gap(gap)
        if what not in self._said:
            self._said.add(what)
            warnings.warn(gap, EnforcementGapWarning, stacklevel=2)


class _Call:
    """Around the sending of one request that was let in."""

    def __init__(self, run: Run, span: Span, options: Any) -> None:  # noqa: ANN401 - the provider's
        self._run, self._span = run, span
        self._here = Here(run, span)
        self._seen: Any = None
        if callable(options.post_parser):  # it may refuse an answer that has been paid for
            options.post_parser = self._seen_by(options.post_parser)

    def _seen_by(self, parse: Callable[[object], object]) -> Callable[[object], object]:
        def parse_seen(answer: object) -> object:
            self._seen = answer
            return parse(answer)

        return parse_seen

    def __enter__(self) -> None:
        self._here.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        self._here.__exit__()
        if error is not None:
            seen = self._seen if self._seen is not None else getattr(error, "completion", None)
            self._run.fail(self._span, error, reply=None if seen is None else read_reply(seen))

    def answered(self, answer: Any) -> None:  # noqa: ANN401 - as above
        """The client answered: with a model, which is all; or with a response, which may still have to be read."""
        try:
            self._read(answer)
        except Exception as bug:  # noqa: BLE001 - ours, not the agent's
            raise_if_meant(bug, "reading of an answer")
            self._run.end(self._span)

    def _read(self, answer: Any) -> None:  # noqa: ANN401 - as above
        response = _response_of(answer)
        if response is None:
            self._end(read_reply(answer))
        elif response.is_closed:
            self._end(read_body(response.content))
        else:
            streamed = "text/event-stream" in response.headers.get("content-type", "")
            Reading(self._run, self._span, response, streamed=streamed)

    def _end(self, reply: Reply | None) -> None:
        self._run.end(self._span, reply=reply)


def _response_of(answer: Any) -> Any:  # noqa: ANN401 - as above
    """HTTPX's response under a stream or a raw response, or that itself; None for a model."""
    if hasattr(answer, "iter_bytes") and hasattr(answer, "is_closed") and hasattr(answer, "headers"):
        return getattr(answer, "http_response", answer)
    if hasattr(answer, "http_response"):
        return answer.http_response
    response = getattr(answer, "response", None)
    return response if hasattr(response, "iter_bytes") else None


class _Unseen:
    """A part of a client that talks through a socket of its own; the client's own part behind a word about that."""

    def __init__(self, client: object, name: str, say: Callable[[str], None]) -> None:
        self._client, self._name, self._say = client, name, say

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the provider's
        if name == "connect":
            self._say(f"{self._name}.connect")
        return getattr(getattr(self._client, self._name), name)
