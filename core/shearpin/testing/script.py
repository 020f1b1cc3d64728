"""What a scripted model answers, and to what: the vocabulary of scripts.

A script is a list of replies, served in order, or a function from a request to a reply. A function that looks
only at its request keeps no state, so that one server answers any number of parallel agents:

>>> def script(request: Request) -> Reply:
...     return tool_call("search", {"q": "pins"}) if request.turn == 0 else reply("A pin shears first.")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, Unpack, cast

from shearpin.testing.request import Request


class Tokens(NamedTuple):
    """As OpenAI counts: `input` includes `cached` and `cache_write`, `output` includes `reasoning`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cache_write: int = 0


NO_TOKENS = Tokens()

UsageGiven: TypeAlias = Tokens | tuple[int, int] | Literal["estimated"] | None


class Modifiers(TypedDict, total=False):
    """How a reply is delivered; every key is optional.

    usage: `(input, output)` or `Tokens(...)`; None: the server reports no usage at all. By default the input
        is a quarter of the size of messages and tools as JSON, the output a quarter of that of the reply.
    delay: seconds before the first byte.
    finish_reason: in place of "stop" or "tool_calls".
    model: the model the response names, in place of the requested one.
    chunks: how a stream cuts its text: into so many pieces, or into exactly these; by default at words.
    chunk_delay: seconds between the events of a stream; with 0 the whole stream is written at once.
    cut_after: break the connection after so many events of a stream, or inside the body of a plain response.
    reasoning: what the model tells of its thoughts: `reasoning_content` in a chat, a summary in a response.
    searches: what the provider searched the web for before it answered; only the Responses API tells that.
    """

    usage: UsageGiven
    delay: float
    finish_reason: str | None
    model: str | None
    chunks: int | Sequence[str] | None
    chunk_delay: float
    cut_after: int | None
    reasoning: str | None
    searches: Sequence[str]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call a reply asks for. `arguments` as a string is sent as it is, valid JSON or not."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    id: str | None = None
    """None: a new unique id every time the call is served."""

    @property
    def arguments_json(self) -> str:
        """The arguments as they cross the wire: compact, as OpenAI's models write them."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A reply of the model; made by `reply`, `tool_call` and `tool_calls`."""

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: UsageGiven = "estimated"
    delay: float = 0.0
    finish_reason: str | None = None
    model: str | None = None
    chunks: int | Sequence[str] | None = None
    chunk_delay: float = 0.0
    cut_after: int | None = None
    reasoning: str | None = None
    searches: Sequence[str] = ()

    def __post_init__(self) -> None:
        # A mistake in a script is shown where it was written, not to a client as a strange answer.
        if isinstance(self.usage, tuple):
            Tokens(*self.usage)
        elif self.usage is not None and self.usage != "estimated":
            raise TypeError(f"usage must be Tokens(...), (input, output) or None, not {self.usage!r}")
        if isinstance(self.chunks, int) and self.chunks < 1:
            raise ValueError(f"chunks must be at least 1, not {self.chunks}")
        if self.chunks is not None and not isinstance(self.chunks, int) and "".join(self.chunks) != self.text:
            raise ValueError(f"chunks {list(self.chunks)!r} do not add up to the text {self.text!r}")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in OpenAI's shape; made by `error`."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer at all; made by `hang`."""

    seconds: float


Reply: TypeAlias = Completion | Failure | Hang


Script: TypeAlias = Callable[[Request], Reply]


class ScriptExhaustedError(LookupError):
    """A list of replies was asked for one more than it has."""


def reply(text: str, **modifiers: Unpack[Modifiers]) -> Completion:
    """The model answers with text.

    >>> reply("Hello", usage=Tokens(1000, 500, cached=900), delay=0.05).text
    'Hello'
    """
    return Completion(text=text, **modifiers)


def tool_call(
    name: str, arguments: Mapping[str, Any] | str | None = None, **modifiers: Unpack[Modifiers]
) -> Completion:
    """The model asks for one tool.

    >>> tool_call("search", {"q": "x"}).tool_calls[0].arguments_json
    '{"q":"x"}'
    """
    return tool_calls([ToolCall(name, {} if arguments is None else arguments)], **modifiers)


def tool_calls(
    calls: Sequence[ToolCall | tuple[str, Mapping[str, Any] | str]],
    text: str | None = None,
    **modifiers: Unpack[Modifiers],
) -> Completion:
    """The model asks for several tools at once, and may say something beside it.

    >>> len(tool_calls([("search", {"q": "x"}), ToolCall("clock", id="call_1")], "Looking.").tool_calls)
    2
    """
    made = tuple(call if isinstance(call, ToolCall) else ToolCall(*call) for call in calls)
    return Completion(text=text, tool_calls=made, **modifiers)


_STATUSES = range(400, 600)
_FAILURES = {
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    404: ("The requested resource does not exist.", "invalid_request_error", None),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    503: ("The engine is currently overloaded, please try again later.", "server_error", None),
}
_REFUSED = ("The request was refused.", "invalid_request_error", None)
_BROKEN = ("The server had an error while processing your request. Sorry about that!", "server_error", None)


def error(
    status: int,
    message: str | None = None,
    *,
    kind: str | None = None,
    param: str | None = None,
    code: str | None = None,
    retry_after: float | None = None,
    delay: float = 0.0,
) -> Failure:
    """The provider fails. `retry_after`, in seconds, becomes Retry-After (rounded up) and retry-after-ms.

    `kind` is the `type` of OpenAI's error; what is not given is what OpenAI says for this status.

    >>> error(429, retry_after=0.5).code
    'rate_limit_exceeded'
    """
    if not isinstance(status, int) or status not in _STATUSES:
        raise ValueError(f"error(status={status!r}): must be a status of HTTP that tells of an error, 400 to 599")
    broken = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    usual = _FAILURES.get(status, _BROKEN if broken else _REFUSED)
    return Failure(status, message or usual[0], kind or usual[1], param, code or usual[2], retry_after, delay)


def hang(seconds: float = inf) -> Hang:
    """The provider says nothing, and drops the connection after `seconds`. A late answer is `delay=`."""
    return Hang(seconds)


def endless(tool: str, arguments: Mapping[str, Any] | str | None = None, **modifiers: Unpack[Modifiers]) -> Script:
    """A model that asks for the same tool for ever: the loop a guard has to break.

    >>> script = endless("search", {"q": "x"})
    """
    always = tool_call(tool, arguments, **modifiers)
    return lambda _: always


def per_conversation(replies: Sequence[Reply], *, repeat_last: bool = False) -> Script:
    """Every conversation gets these replies in order, however many are held at once.

    >>> script = per_conversation([tool_call("search", {"q": "x"}), reply("done")])
    """
    listed = tuple(replies)
    return lambda request: _pick(listed, request.turn, repeat_last)


def as_script(script: Script | Sequence[Reply], repeat_last: bool) -> Script:
    """A list of replies as the function that serves it."""
    if callable(script):
        if repeat_last:
            raise ValueError("repeat_last is for a list of replies; a function decides for itself")
        return script
    if not isinstance(script, Iterable):
        raise TypeError(f"a script is a list of replies such as [reply('text')], or a function, not {script!r}")
    listed = tuple(script)
    for item in cast("tuple[object, ...]", listed):
        if not isinstance(item, Reply):
            raise TypeError(f"a script lists replies such as reply('text'), not {item!r}")
    return lambda request: _pick(listed, request.index, repeat_last)


def _pick(replies: tuple[Reply, ...], position: int, repeat_last: bool) -> Reply:
    if position < len(replies):
        return replies[position]
    if repeat_last and replies:
        return replies[-1]
    raise ScriptExhaustedError(
        f"the script has {len(replies)} replies and was asked for number {position + 1}; "
        "script more, or let the last one repeat with repeat_last=True"
    )
