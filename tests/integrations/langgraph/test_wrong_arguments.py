"""What does not belong where it was given is refused at once, with the way out in the message."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph

import shearpin
import shearpin_integrations.langchain
import shearpin_integrations.langgraph
from shearpin import Budget, Guard
from shearpin.testing import reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node, hook_nodes
from tests.integrations.langgraph.conftest import ASK, MakeGuard, MakeModel, Serve, chat_graph

PIN = Guard(Budget(llm_calls=3))


def builder() -> StateGraph:
    graph = StateGraph(MessagesState)
    graph.add_node("nothing", lambda state: {})
    graph.add_edge(START, "nothing")
    return graph


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a rule for the handler": (
        lambda: ShearpinCallbackHandler(Budget(usd=1)),  # type: ignore[arg-type]
        "takes a guard: ShearpinCallbackHandler(Guard(Budget(usd=0.50)))",
    ),
    "nothing for the handler": (lambda: ShearpinCallbackHandler(None), "takes a guard"),  # type: ignore[arg-type]
    "a number for the middleware": (
        lambda: ShearpinMiddleware(1),  # type: ignore[arg-type]
        "takes a guard: ShearpinMiddleware(Guard(Budget(usd=0.50))), not 1",
    ),
    "a node without a rule": (lambda: guarded_node(len), "guarded_node needs a rule or a guard"),
    "a node that is a name": (lambda: guarded_node("search", PIN), "guarded_node takes a function or a runnable"),  # type: ignore[type-var]
    "a compiled graph to hook": (
        lambda: hook_nodes(builder().compile(), PIN),  # type: ignore[type-var]
        "before compile(): hook_nodes(builder, pin).compile()",
    ),
    "a rule to hook": (
        lambda: hook_nodes(builder(), Budget(usd=1)),  # type: ignore[arg-type]
        "takes a guard: hook_nodes(builder, Guard(Budget(usd=0.50)))",
    ),
    "a builder to attach": (lambda: shearpin.attach(builder(), PIN), "attach(builder.compile(), ...)"),
    "a text to attach": (lambda: shearpin.attach("agent", PIN), "no installed integration knows builtins.str"),
    "no rule to attach": (lambda: shearpin.attach(builder().compile()), "attach(agent, Budget(usd=0.50))"),
    "an unknown option": (lambda: shearpin.attach(builder().compile(), PIN, colour="red"), "no option 'colour'"),
    "a number to install": (lambda: shearpin.install(1), "install(Guard(Budget(usd=0.50))), not 1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("make", "told"), WRONG.values(), ids=WRONG)
def test_it_is_a_type_error_that_tells_what_to_write_instead(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)):
        make()


@pytest.mark.parametrize("module", [shearpin_integrations.langchain, shearpin_integrations.langgraph])
def test_an_integration_offers_no_second_attach(module: Any) -> None:
    assert not {"attach", "install"} & set(dir(module))


def test_every_option_of_attach_reaches_the_trace(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    pin = guarded(Budget(llm_calls=1))
    chat = model(serve([reply("hi")]))
    options = {"session_id": "s", "user_id": "u", "tenant": "t", "team": "m", "organization": "o", "task_type": "k"}
    more: dict[str, Any] = {"version": "2", "env": "prod", "tags": ["beta"], "metadata": {"region": "eu"}}

    shearpin.attach(chat_graph(chat), pin, service="support", **options, **more).invoke(ASK)

    (trace,) = pin.traces
    assert (trace.name, {name: getattr(trace, name) for name in options}) == ("support", options)
    assert (trace.version, trace.env, tuple(trace.tags)) == ("2", "prod", ("beta",))
    assert trace.metadata["region"] == "eu"


def test_a_function_takes_the_same_options() -> None:
    pin = Guard(Budget(llm_calls=1))

    answer = shearpin.attach(str.upper, pin, service="shout", user_id="u", tags=["beta"])

    assert answer("hi") == "HI"
    (trace,) = pin.traces
    assert (trace.name, trace.user_id, tuple(trace.tags)) == ("shout", "u", ("beta",))
