"""The four stories: who is asked what, under which rules, and how it is to end."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false
# (LangChain and LangGraph leave type parameters open.)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import LanguageModelInput
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph

from shearpin import Budget, BudgetExceededError, LoopBreaker, LoopDetectedError, RunStoppedError
from shearpin.testing import Script
from shearpin_integrations.langgraph_demo.scripted import explains, finds_the_order, reviews, searches_for_ever

__all__ = ["MODEL", "STORIES", "Story"]

MODEL = "gpt-4o"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One run: `build` makes the agent over a model, which is asked `given`; `stopped_by` is how it is to end."""

    name: str
    title: str
    text: str
    rules: tuple[Budget | LoopBreaker, ...]
    script: Script
    build: Callable[[ChatOpenAI], Runnable[Any, Any]]
    given: Any
    stopped_by: type[RunStoppedError] | None = None

    @property
    def usd(self) -> float:
        """The dollars that its budget allows."""
        return min(rule.usd for rule in self.rules if isinstance(rule, Budget) and rule.usd is not None)


# --- an agent that does its work


def find_order(number: int) -> str:
    """Look up an order by its number."""
    return f"order {number}: 2 shear pins, in Lyon since Friday, due on Tuesday"


def _support(model: ChatOpenAI) -> Runnable[Any, Any]:
    return create_agent(model, [find_order], name="support")


# --- an agent that runs away


MANUAL = "Manual of pump P-7, chapter 4: parts\n" + "\n".join(
    f"4.{number}  Part {number} is tightened to {20 + number % 7} Nm and replaced every {500 + 25 * number} hours."
    for number in range(1, 181)
)


def search_manual(query: str) -> str:  # noqa: ARG001 - the schema that the model sees
    """Search the manual; returns the chapter that fits best."""
    return MANUAL


def _warranty(model: ChatOpenAI) -> Runnable[Any, Any]:
    instruction = (
        "Answer only with what the manual says. When a chapter does not tell it, call search_manual again with "
        "exactly the query 'P-7 warranty period'. Never answer without having found it, and never ask the user."
    )
    return create_agent(model, [search_manual], system_prompt=instruction, name="warranty")


# --- a fan-out

ARTICLES = [
    f"Article {article}\n"
    + "\n".join(
        f"{article}.{number}  The supplier inspects part {number} every {500 + 25 * number} hours and keeps a log."
        for number in range(1, 81)
    )
    for article in range(1, 21)
]


class Review(TypedDict, total=False):
    """The state of the graph below."""

    articles: list[str]
    findings: list[str]


def _contract(model: ChatOpenAI) -> Runnable[Any, Any]:
    brief = model.bind(max_tokens=100)

    def review(state: Review) -> Review:
        articles = state.get("articles", [])
        asked: list[LanguageModelInput] = [f"To what does it bind the supplier?\n\n{text}" for text in articles]
        answers = brief.batch(asked, {"max_concurrency": len(asked)})  # all of them at once
        return {"findings": [str(answer.content) for answer in answers]}

    builder = StateGraph(Review)
    builder.add_node("review", review)
    builder.add_edge(START, "review")
    return builder.compile(name="contract")


# --- a chain


def _explain(model: ChatOpenAI) -> Runnable[Any, Any]:
    prompt = ChatPromptTemplate.from_template("Explain in one sentence: what is {thing}?")
    return prompt | model | StrOutputParser()


def _asked(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


STORIES = (
    Story(
        name="support",
        title="An agent that does its work",
        text="An agent is asked where an order is. It looks the order up and answers. No rule objects.",
        rules=(Budget(usd=0.10), LoopBreaker()),
        script=finds_the_order,
        build=_support,
        given=_asked("Where is my order 4711?"),
    ),
    Story(
        name="warranty",
        title="An agent that runs in a loop",
        text="An agent is asked how long the warranty of a pump is. It searches the manual, gets the list of parts, "
        "and searches again with the same words. By itself it never stops.",
        rules=(Budget(usd=0.50), LoopBreaker()),
        script=searches_for_ever,
        build=_warranty,
        given=_asked("How long is the warranty of pump P-7?"),
        stopped_by=LoopDetectedError,
    ),
    Story(
        name="contract",
        title="Twenty calls at the same moment",
        text=f"A graph reviews a contract of {len(ARTICLES)} articles, one model call for each, all at the same "
        "moment, on a budget that does not pay for all of them.",
        rules=(Budget(usd=0.03),),
        script=reviews,
        build=_contract,
        given={"articles": ARTICLES},
        stopped_by=BudgetExceededError,
    ),
    Story(
        name="explain",
        title="A plain chain",
        text="A chain, prompt | model | parser, is asked what a shear pin is. The same handler, the same trace.",
        rules=(Budget(usd=0.01),),
        script=explains,
        build=_explain,
        given={"thing": "a shear pin"},
    ),
)
