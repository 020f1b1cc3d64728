"""What a request to OpenAI's API asks for: a call that a run can count, one that it cannot, or nothing that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from shearpin.runs import given
from shearpin.trace.plain import is_dict, is_list
from shearpin.trace.prompts import chat_messages, response_messages


class Asked(NamedTuple):
    """A call of a model: its kind and name and the fields of its span."""

    kind: str
    model: str
    fields: dict[str, Any]


UNREAD = "unread"
"""The name of a model that could not be read: a gate stays a gate."""

PRICED = ("audio", "batches", "evals", "fine_tuning", "images", "live", "realtime", "threads", "videos")
"""What else costs money, by the first part of its path."""


def read_request(options: Any, provider: str) -> Asked | None:  # noqa: ANN401 - the client's own
    """What the client's request options ask of a model; None for everything else."""
    read = _MODELS.get(_path(options)) if str(options.method).upper() == "POST" else None
    if read is None:
        return None
    body = _body(options)
    kind = "embedding" if read is _embedding else "llm"
    model = given.text(body.get("model") or UNREAD)
    fields = {"request_model": model, "provider": provider} | read(body)
    return Asked(kind, model, fields)


def costs_unseen(options: Any) -> str | None:  # noqa: ANN401 - as above
    """The path of a request that costs money and is no call of a model we count; None for others."""
    path = _path(options)
    return path if str(options.method).upper() == "POST" and path.split("/")[1] in PRICED else None


def _path(options: Any) -> str:  # noqa: ANN401 - as above
    return "/" + str(options.url).strip("/")


def _body(options: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
    body, more = options.json_data, options.extra_json
    return {**(body if is_dict(body) else {}), **(more if is_dict(more) else {})}


def _chat(body: Mapping[str, Any]) -> dict[str, Any]:
    return _settings(body, "max_completion_tokens", "max_tokens") | {"messages": chat_messages(body.get("messages"))}


def _response(body: Mapping[str, Any]) -> dict[str, Any]:
    messages = response_messages(body.get("instructions"), body.get("input"))
    return _settings(body, "max_output_tokens") | {"messages": messages}


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt")
    texts = prompt if is_list(prompt) and not _is_tokens(prompt) else [prompt]
    return _settings(body, "max_tokens") | {"messages": [{"role": "user", "content": text} for text in texts]}


def _embedding(body: Mapping[str, Any]) -> dict[str, Any]:
    texts = body.get("input")
    return {"messages": texts if is_list(texts) and not _is_tokens(texts) else [texts]}


def _is_tokens(value: list[Any]) -> bool:
    """One text as the numbers of its tokens."""
    return all(isinstance(item, int) for item in value)


def _settings(body: Mapping[str, Any], *limits: str) -> dict[str, Any]:
    tools, limit = body.get("tools") or body.get("functions"), None
    with suppress(TypeError):
        limit = next((given.token_limit(body[name]) for name in limits if body.get(name) is not None), None)
    return {
        "max_tokens": limit,
        "temperature": body.get("temperature"),
        "seed": body.get("seed"),
        "tools": tools if is_list(tools) else (),
    }


_MODELS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "/chat/completions": _chat,
    "/responses": _response,
    "/responses/compact": _response,
    "/completions": _completion,
    "/embeddings": _embedding,
}
