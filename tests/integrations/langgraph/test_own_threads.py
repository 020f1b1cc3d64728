"""A thread that a node starts itself is told nothing by LangChain: what cannot be enforced there is said."""

import contextvars
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import START, MessagesState, StateGraph

from shearpin import Budget, BudgetExceededError, EnforcementGapWarning
from shearpin.testing import reply
from shearpin_integrations.langgraph import ShearpinCallbackHandler
from tests.integrations.langgraph.conftest import ASK, MakeGuard, MakeModel, Serve

INSTALLED = """
import os, threading, warnings
import shearpin
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

pin = shearpin.Guard(shearpin.Budget(llm_calls=3))
shearpin.install(pin)
chat = ChatOpenAI(model="gpt-4o", base_url=os.environ["PROVIDER"], api_key="none", max_retries=0)

def work(state):
    thread = threading.Thread(target=lambda: [chat.invoke("hello") for _ in range(5)])
    thread.start()
    thread.join()
    return {"messages": [("ai", "done")]}

builder = StateGraph(MessagesState)
builder.add_node("work", work)
builder.add_edge(START, "work")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    builder.compile().invoke({"messages": [("user", "go")]})
gaps = [str(each.message) for each in told if each.category is shearpin.EnforcementGapWarning]
print(len(gaps), sum("copy_context" in gap for gap in gaps), [trace.llm_calls for trace in pin.traces])
print(sum(len(trace.gaps) for trace in pin.traces))
"""


@pytest.mark.slow
def test_install_reaches_such_a_thread_and_says_that_it_counts_apart(serve: Serve) -> None:
    server = serve([reply("hi")], repeat_last=True)
    environment = os.environ | {"PROVIDER": server.base_url}

    done = subprocess.run(
        [sys.executable, "-c", INSTALLED], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == ("1 1 [1, 1, 1, 1, 1, 0]\n5\n", "")
    assert server.served == 5


def threaded(chat: Any, start: Callable[[Callable[[], None]], Callable[[], None]]) -> Any:
    """A graph whose only node calls the model in a thread of its own."""
    raised: list[BaseException] = []

    def work(state: Any) -> dict[str, Any]:
        def body() -> None:
            try:
                for _ in range(3):
                    chat.invoke("hello")
            except Exception as error:  # noqa: BLE001 - it is raised in the node
                raised.append(error)

        thread = threading.Thread(target=start(body))
        thread.start()
        thread.join()
        if raised:
            raise raised[0]
        return {"messages": [("ai", "done")]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    return builder.compile()


def test_a_thread_that_is_given_the_context_is_part_of_the_run(
    serve: Serve, model: MakeModel, guarded: MakeGuard
) -> None:
    server, pin = serve([reply("hi")], repeat_last=True), guarded(Budget(llm_calls=2))

    def inside(body: Callable[[], None]) -> Callable[[], None]:
        return functools.partial(contextvars.copy_context().run, body)

    graph = threaded(model(server), inside)

    with pytest.raises(BudgetExceededError):
        graph.invoke(ASK, {"callbacks": [ShearpinCallbackHandler(pin)]})

    assert (server.served, [trace.llm_calls for trace in pin.traces]) == (2, [2])


def test_a_handler_on_the_model_says_so_once(serve: Serve, model: MakeModel, guarded: MakeGuard) -> None:
    server, pin = serve([reply("hi")], repeat_last=True), guarded(Budget(llm_calls=2))
    chat = model(server, callbacks=[ShearpinCallbackHandler(pin)])

    with pytest.warns(EnforcementGapWarning, match="copy_context") as told:
        threaded(chat, lambda body: body).invoke(ASK, {"callbacks": [ShearpinCallbackHandler(pin)]})

    assert (server.served, len(told), len(pin.traces)) == (3, 1, 4)


@pytest.mark.parametrize("questions", [["one"], ["one", "two", "three"]])
def test_threads_of_langchains_own_are_nothing_to_tell_of(
    serve: Serve, model: MakeModel, guarded: MakeGuard, questions: list[str]
) -> None:
    server, pin = serve([reply("hi", delay=0.02)], repeat_last=True), guarded(Budget(llm_calls=1))

    model(server).batch(questions, {"callbacks": [ShearpinCallbackHandler(pin)]})

    assert [trace.gaps for trace in pin.traces] == [[]] * len(questions)
