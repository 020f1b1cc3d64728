"""A structured answer comes as a call of a tool that is none: it uses no budget of tool calls."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from pydantic import BaseModel

from shearpin import Budget, Guard, LoopBreaker, LoopDetectedError
from shearpin.testing import Reply, Request, endless, tool_call
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware
from tests.integrations.langgraph.conftest import ASK, FOUR_MODES, MakeGuard, MakeModel, Serve, run_mode, tool_of


class Answer(BaseModel):
    """The answer."""

    number: int


def handled(chat: Any, pin: Guard) -> Any:
    agent = create_agent(chat, [tool_of([])], response_format=ToolStrategy(Answer))
    return agent.with_config(callbacks=[ShearpinCallbackHandler(pin)])


def wrapped(chat: Any, pin: Guard) -> Any:
    options: dict[str, Any] = {"response_format": ToolStrategy(Answer), "middleware": [ShearpinMiddleware(pin)]}
    return create_agent(chat, [tool_of([])], **options)


both_ways = pytest.mark.parametrize("build", [handled, wrapped])
Build = Callable[[Any, Guard], Any]


@both_ways
@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_structured_answer_is_no_tool_call(
    serve: Serve, model: MakeModel, guarded: MakeGuard, build: Build, mode: str
) -> None:
    def script(request: Request) -> Reply:
        return tool_call("search", {"q": "five"}) if request.turn == 0 else tool_call("Answer", {"number": 5})

    server, pin = serve(script), guarded(Budget(tool_calls=1))

    said = run_mode(build(model(server), pin), ASK, {}, mode)

    trace = pin.traces[-1]
    assert "number=5" in str(said)
    assert (trace.status, trace.llm_calls, trace.tool_calls, trace.steps) == ("ok", 2, 1, 2)
    assert [span.name for span in trace.spans_of("tool")] == ["search"]


@both_ways
@pytest.mark.parametrize("mode", FOUR_MODES)
def test_a_model_that_never_gets_its_answer_right_goes_in_a_loop(
    serve: Serve, model: MakeModel, guarded: MakeGuard, build: Build, mode: str
) -> None:
    server, pin = serve(endless("Answer", {"number": "many"})), guarded(LoopBreaker(), Budget(tool_calls=0))

    with pytest.raises(LoopDetectedError, match="came 3 times"):
        run_mode(build(model(server), pin), ASK, {}, mode)

    assert (server.served, pin.traces[-1].tool_calls) == (4, 0)


@both_ways
def test_a_guard_that_only_observes_lets_it_go_on(
    serve: Serve, model: MakeModel, guarded: MakeGuard, build: Build
) -> None:
    wrong, right = tool_call("Answer", {"number": "many"}), tool_call("Answer", {"number": 5})
    server, pin = serve([*[wrong] * 4, right]), guarded(LoopBreaker(), mode="observe")

    run_mode(build(model(server), pin), ASK, {}, "invoke")

    trace = pin.traces[-1]
    assert (server.served, trace.status, [each.verdict for each in trace.decisions]) == (5, "ok", ["stop"])
