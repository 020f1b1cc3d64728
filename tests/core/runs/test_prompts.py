"""A prompt is measured whatever it is handed over as, and under whatever name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from shearpin import Budget, BudgetExceededError, Guard, Trace

TEXT = "word " * 1000
SAID = {"role": "user", "content": TEXT}
CALL = {"id": "1", "name": "search", "arguments": {"q": TEXT}}


class Message:
    def __init__(self, content: object = TEXT) -> None:
        self.role, self.content = "user", content


@dataclass
class Record:
    content: str = TEXT
    role: str = "user"


class Model(BaseModel):
    role: str = "user"
    content: str = TEXT


class Parts:
    parts = (TEXT,)


class History:
    def __iter__(self) -> Iterator[object]:
        return iter([SAID])


class Broken:
    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no")


def traced(messages: Any, **options: Any) -> Trace:
    pin = Guard(Budget(tokens=10**9))
    with pin.run() as run, run.llm(model="m", messages=messages, max_tokens=1, **options):
        pass
    return pin.traces[-1]


PROMPTS = {
    "a text": TEXT,
    "a list": [SAID],
    "a tuple": (SAID,),
    "texts": [TEXT],
    "namespaces": [SimpleNamespace(**SAID)],
    "objects": [Message()],
    "one object": Message(),
    "an object of parts": Parts(),
    "an object with parts in it": Message([{"type": "text", "text": TEXT}]),
    "records": [Record()],
    "one record": Record(),
    "models": [Model()],
    "one model": Model(),
    "one dict": SAID,
    "a history": History(),
    "a view": {1: SAID}.values(),
    "an object that calls a tool": SimpleNamespace(role="assistant", content="", tool_calls=[CALL]),
    "as Google has it": [{"role": "user", "parts": [{"text": TEXT}]}],
    "as the Responses API has it": [{"type": "function_call_output", "call_id": "1", "output": TEXT}],
    "under a name of its own": [{"role": "user", "question": TEXT}],
    "as a name": [{TEXT: True}],
}


@pytest.mark.parametrize("what", PROMPTS)
def test_a_prompt_counts_what_it_says_whatever_it_is(what: str) -> None:
    trace = traced(PROMPTS[what])

    assert 1000 <= trace.usage.input_tokens < 1500
    assert trace.gaps == []


def test_an_image_of_google_counts_as_one_and_not_as_its_letters() -> None:
    image = {"inline_data": {"mime_type": "image/png", "data": "A" * 100_000}}

    assert 1600 <= traced([{"role": "user", "parts": [image]}]).usage.input_tokens < 1700


@pytest.mark.parametrize(
    "tools",
    [
        {"search": {"description": TEXT}},
        [{"name": "search", "description": TEXT}],
        {1: {"name": "search", "description": TEXT}}.values(),
        [SimpleNamespace(content=TEXT)],
    ],
)
def test_tools_count_whatever_they_are_listed_in(tools: Any) -> None:
    trace = traced("hi", tools=tools)

    assert 1000 <= trace.usage.input_tokens < 1500


def test_the_names_of_tools_are_kept() -> None:
    [span] = traced("hi", tools={"search": {"description": "finds"}}).spans_of("llm")

    assert span.tools == [{"name": "search", "definition": {"description": "finds"}}]


@pytest.mark.parametrize("unread", [lambda: map(dict, [SAID]), lambda: (each for each in [SAID]), object, Broken])
def test_a_prompt_that_cannot_be_measured_is_a_gap_and_is_left_to_the_caller(unread: Callable[[], Any]) -> None:
    prompt = unread()
    trace = traced(prompt)

    assert f"a {type(prompt).__name__} that is sent to a model cannot be measured" in trace.gaps[0]
    if not isinstance(prompt, Broken) and hasattr(prompt, "__iter__"):
        assert list(prompt) == [SAID]


def test_a_tool_that_cannot_be_measured_is_a_gap() -> None:
    tools: list[Any] = [traced]

    assert "a function that is sent" in traced("hi", tools=tools).gaps[0]


def test_the_texts_of_an_embedding_are_left_to_the_caller_too() -> None:
    pin = Guard()
    texts: Any = iter([TEXT])

    with pin.run() as run, run.embedding(model="m", texts=texts):
        assert list(texts) == [TEXT]

    assert "list_iterator" in pin.traces[-1].gaps[0]


# --- what a decorated function is called with


def asked(*arguments: Any, function: Callable[..., Any], **named: Any) -> Any:
    pin = Guard(Budget(tokens=10**9))
    with pin.run():
        pin.llm(model="m")(function)(*arguments, **named)
    return pin.traces[-1].spans_of("llm")[0]


def taking(name: str) -> Callable[..., Any]:
    made: dict[str, Any] = {}
    exec(f"def ask({name}): return 'yes'", made)  # noqa: S102 - a function with that argument
    ask: Callable[..., Any] = made["ask"]
    return ask


NAMES = ["prompt", "messages", "question", "text", "input", "query", "contents", "instructions", "anything", "*args"]


@pytest.mark.parametrize("name", [*NAMES, "**kwargs"])
@pytest.mark.parametrize("said", [TEXT, [SAID], SAID, [TEXT], (TEXT, TEXT), {"question": TEXT}, {"q": [TEXT]}])
def test_the_prompt_of_a_decorated_function_counts_under_any_name(name: str, said: Any) -> None:
    function = taking(name)
    span = asked(function=function, other=said) if name == "**kwargs" else asked(said, function=function)

    assert 1000 <= span.usage.input_tokens < 3000


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_ends_what_is_asked_under_any_name(name: str) -> None:
    pin = Guard(Budget(tokens=100_000))
    function = pin.llm(model="m")(taking(name))
    made = []

    with pytest.raises(BudgetExceededError), pin.run():
        for number in range(100):
            function(f"{number} {TEXT * 20}")
            made.append(number)

    assert len(made) == 3


def test_instructions_come_before_what_is_asked() -> None:
    def ask(question: str, context: list[str], system: str = "Be brief.", temperature: float = 0.5) -> None: ...

    span = asked("Why?", ["Because."], function=ask)

    assert span.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "user", "content": ["Because."]},
    ]


def test_a_conversation_is_recorded_as_it_is() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}]

    assert asked(said, function=lambda messages: None).messages == said
    assert asked(history=said, function=lambda history: None).messages == said


def test_neither_settings_nor_secrets_nor_what_does_the_asking_are_a_prompt() -> None:
    def ask(question: str, **more: Any) -> None: ...

    more: Mapping[str, Any] = {"api_key": "sk-1", "access_token": "t", "user_id": "u1", "model": "m", "client": Guard()}
    more |= {"base_url": "http://x", "stop": ["\n"], "temperature": 1, "top_p": 0.5, "db": Guard(), "stream": True}

    assert asked("Why?", function=ask, **more).messages == [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_a_limit_of_output_counts_under_every_name_it_has(name: str) -> None:
    pin = Guard(Budget(output_tokens=1000))

    @pin.llm(model="m")
    def ask(prompt: str, **options: Any) -> str:
        return "yes"

    with pytest.raises(BudgetExceededError) as refused, pin.run():
        ask("hi", **{name: 7000})

    assert refused.value.estimate == 7000
