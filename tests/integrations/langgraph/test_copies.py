"""LangChain and its users copy configs and models with all they hold; a copy shares the guard."""

import copy
from typing import Any

import pytest

import shearpin
from shearpin import Budget, BudgetExceededError
from shearpin.testing import reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler, ShearpinMiddleware, guarded_node
from tests.integrations.langgraph.conftest import ASK, MakeGuard, MakeModel, Serve, asking, chat_graph


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deep copy"])
def test_a_copied_handler_counts_for_the_same_guard_and_once(
    serve: Serve, model: MakeModel, guarded: MakeGuard, copied: Any
) -> None:
    server, pin = serve([reply("hi")], repeat_last=True), guarded(Budget(llm_calls=1))
    handler = ShearpinCallbackHandler(pin)

    chat_graph(model(server)).invoke(ASK, {"callbacks": [handler, copied(handler)]})

    assert (pin.traces[-1].llm_calls, copied(handler).guard is pin) == (1, True)


def test_a_model_that_holds_the_handler_is_copied(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server, pin = serve([reply("hi")]), guarded(Budget(llm_calls=0))
    held: Any = model(server, callbacks=[ShearpinCallbackHandler(pin)]).callbacks

    with pytest.raises(BudgetExceededError):
        model(server).invoke("hello", {"callbacks": copy.deepcopy(held)})

    assert server.served == 0


@pytest.mark.parametrize("make", [ShearpinMiddleware, lambda pin: guarded_node(asking(None), pin)])
def test_middleware_and_guarded_nodes_are_copied(guarded: MakeGuard, make: Any) -> None:
    pin = guarded(Budget(llm_calls=0))
    assert copy.deepcopy(make(pin)).guard is pin


def test_an_attached_graph_is_copied(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server, pin = serve([reply("hi")]), guarded(Budget(llm_calls=0))
    attached = copy.deepcopy(shearpin.attach(chat_graph(model(server)), pin).config_factories)
    assert attached[0]({})["callbacks"][0].guard is pin
