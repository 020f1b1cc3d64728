"""The tree of a run that a framework really made: what the other tests record by hand is what is recorded."""

import operator
from typing import Annotated, TypedDict

import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from shearpin import Budget, Guard, RunStoppedError
from shearpin.testing import ScriptedServer, reply
from shearpin.view.terminal import render
from shearpin_integrations.langgraph import ShearpinCallbackHandler


class Contract(TypedDict, total=False):
    findings: Annotated[list[str], operator.add]


async def test_a_fan_out_that_was_stopped_tells_the_stop_once_and_the_rest_in_one_line():
    pin = Guard(Budget(llm_calls=7))
    with ScriptedServer(lambda _: reply("binding", usage=(100, 10), delay=0.05)) as server:
        model = ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="none", max_retries=0)

        async def review(article):
            return {"findings": [str((await model.ainvoke(f"article {article}")).content)]}

        builder = StateGraph(Contract)
        builder.add_node("review", review)
        builder.add_conditional_edges(START, lambda _: [Send("review", number) for number in range(20)], ["review"])
        with pytest.raises(RunStoppedError):
            await builder.compile(name="contract").ainvoke({}, {"callbacks": [ShearpinCallbackHandler(pin)]})

    shown = render(pin.traces[-1]).splitlines()

    assert server.served == 7
    assert len([line for line in shown if 'llm gpt-4o → "binding"' in line]) == 7
    assert len([line for line in shown if "✋ STOP  Budget refused llm gpt-4o" in line]) == 1
    assert len([line for line in shown if "… 12 more nodes, stopped before their first call" in line]) == 1
    assert not [line for line in shown if "✗" in line]
    assert "┃ refused  llm gpt-4o, which would have been model call 8" in shown
