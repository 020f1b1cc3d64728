"""What the real client of OpenAI hands out, read from `call.response`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shearpin import Guard
from shearpin.testing import ScriptedServer, Tokens, error, reply, tool_calls
from shearpin.trace import LLMSpan
from shearpin.trace.providers import read_reply

pytest.importorskip("openai")  # the core is also tested where no provider's client is installed

import openai

USED = Tokens(1000, 500, cached=900, reasoning=400, cache_write=50)
CALLS = [("search", {"q": "pins"}), ("clock", "{broken")]


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    replies = [
        tool_calls(CALLS, "Looking.", reasoning="Let me see.", usage=USED, model="gpt-4o-2024-08-06", searches=["x"]),
        reply("cut", finish_reason="length", usage=None),
    ]
    with ScriptedServer(replies) as server, openai.OpenAI(base_url=server.base_url, api_key="any") as client:
        yield client


def recorded(response: object) -> LLMSpan:
    pin = Guard()
    with pin.run("ask") as run, run.llm(model="gpt-4o", messages="Hi") as call:
        call.response = response
    return pin.traces[-1].spans_of("llm")[0]


def respond(client: openai.OpenAI) -> Any:
    return client.responses.create(model="gpt-4o", input="Hi")


def respond_in_pieces(client: openai.OpenAI) -> Any:
    with client.responses.stream(model="gpt-4o", input="Hi") as events:
        return events.get_final_response()


def chat(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])


def as_data(client: openai.OpenAI) -> Any:
    return respond(client).model_dump()


@pytest.mark.parametrize("ask", [respond, respond_in_pieces, as_data, chat])
def test_a_response_is_read_whole(client: openai.OpenAI, ask: Any) -> None:
    answer = ask(client)
    span = recorded(answer)

    assert (span.reply, span.reasoning) == ("Looking.", "Let me see.")
    assert [(call["name"], call["arguments"]) for call in span.tool_calls] == [
        ("search", {"q": "pins"}),
        ("clock", "{broken"),
    ]
    assert all(call["id"].startswith("call_") for call in span.tool_calls)
    assert span.response_id == (answer["id"] if isinstance(answer, dict) else answer.id)
    assert (span.response_model, span.finish_reason) == (
        ("gpt-4o-2024-08-06", "tool_calls" if ask is chat else "completed")
    )
    assert span.usage is not None
    assert not span.usage_estimated
    counts = (span.usage.input_tokens, span.usage.output_tokens, span.usage.cached_input_tokens)
    assert counts == (1000, 500, 900)
    assert (span.usage.reasoning_tokens, span.usage.cache_write_tokens) == (400, 50)


@pytest.mark.parametrize(("ask", "why"), [(respond, "max_output_tokens"), (chat, "length")])
def test_an_answer_that_was_not_finished_says_why_and_without_usage_is_estimated(
    client: openai.OpenAI, ask: Any, why: str
) -> None:
    ask(client)
    span = recorded(ask(client))

    assert (span.reply, span.finish_reason, span.usage_estimated) == ("cut", why, True)


def test_a_response_that_is_still_being_made_has_not_finished() -> None:
    for status in ("queued", "in_progress"):
        assert read_reply({"object": "response", "output": [], "status": status}).finish_reason is None


def test_calls_that_the_client_runs_are_told_whatever_they_are_called_with() -> None:
    calls = [
        {"type": "custom_tool_call", "call_id": "1", "name": "sql", "input": "select 1"},
        {"type": "local_shell_call", "call_id": "2", "action": {"command": ["ls"]}},
        {"type": "apply_patch_call", "call_id": "3", "operation": {"path": "a"}},
        {"type": "mcp_call", "id": "4", "name": "theirs", "arguments": "{}"},
    ]
    made = read_reply({"object": "response", "output": calls, "status": "completed"}).tool_calls

    assert made == [
        {"id": "1", "name": "sql", "arguments": "select 1"},
        {"id": "2", "name": "local_shell", "arguments": {"command": ["ls"]}},
        {"id": "3", "name": "apply_patch", "arguments": {"path": "a"}},
    ]


def test_a_custom_tool_of_a_chat_is_told() -> None:
    call = {"id": "1", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}

    (made,) = read_reply({"choices": [{"message": {"tool_calls": [call]}}]}).tool_calls

    assert made == {"id": "1", "name": "sql", "arguments": "select 1"}


def test_a_refusal_is_what_the_model_said() -> None:
    part = {"type": "refusal", "refusal": "No."}
    response = {"object": "response", "output": [{"type": "message", "content": [part]}], "status": "completed"}

    assert read_reply(response).text == "No."
    assert read_reply({"choices": [{"message": {"content": None, "refusal": "No."}}]}).text == "No."


def test_thoughts_are_not_what_the_model_said() -> None:
    thoughts = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "One."}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Two."}]},
    ]
    said = {"type": "message", "content": [{"type": "output_text", "text": "Done."}]}

    told = read_reply({"object": "response", "output": [*thoughts, said], "status": "completed"})

    assert (told.text, told.reasoning) == ("Done.", "One.\n\nTwo.")


def test_a_call_that_failed_costs_nothing() -> None:
    pin = Guard()
    with (
        ScriptedServer([error(500)]) as server,
        openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.InternalServerError),
        pin.run("ask") as run,
        run.llm(model="gpt-4o") as call,
    ):
        call.response = respond(client)
    assert pin.traces[-1].usage.total_tokens == 0
