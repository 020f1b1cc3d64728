"""What `LoopWatch` costs an agent: microseconds of each step, with warm caches and with cold ones.

A step is a node with a model call that asks for a tool, and a node with that tool call and its new answer: eight
events. Within an agent they lie far apart, so that each finds the caches full of other things; that is imitated by
going through a long list before every event. The cost of calling a watch that does nothing is taken off.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator

from shearpin.rules.loop import LoopBreaker
from shearpin.trace import LLMSpan, NodeSpan, Span, ToolSpan
from shearpin.trace.pool import Pool

_STEPS = 25
_SENTENCE = "The quick brown fox jumps over the lazy dog, and then it looks for another way around the hill."


class _Nothing:
    def check(self, span: Span) -> None:
        """No."""

    def admit(self, span: Span) -> None:
        """Fine."""

    def settle(self, span: Span) -> None:
        """Fine."""


def report(rule: LoopBreaker, rounds: int) -> None:
    """Print both figures."""
    rubbish = [object() for _ in range(250_000)]  # 2 MB of pointers to 4 MB of objects
    gc.disable()
    for title, disturb, times in (("warm", None, 10 * rounds), ("cold", lambda: rubbish.count(None), rounds)):
        costs = [_step(rule.watch(None), disturb) - _step(_Nothing(), disturb) for _ in range(times)]  # type: ignore[arg-type]
        print(f"time of an agent's step, {title} caches: {statistics.median(costs):6.1f} us")
    gc.enable()


def _step(watch: object, disturb: Callable[[], object] | None) -> float:
    check, admit, settle = watch.check, watch.admit, watch.settle  # type: ignore[attr-defined]
    clock, spent = time.perf_counter_ns, 0
    for span, starts in _events():
        if disturb:
            disturb()
        begun = clock()
        if starts:
            check(span)
            admit(span)
        else:
            settle(span)
        spent += clock() - begun
    return spent / _STEPS / 1e3


def _events() -> Iterator[tuple[Span, bool]]:
    """Every span as it starts and as it ends, with what is known of it by then."""
    pool, prompt = Pool(), [{"role": "user", "content": "Find it."}]
    yield Span("root", None, "agent", "agent", agent="agent"), True
    for i in range(1, _STEPS + 1):
        question = {"query": f"question {i}"}
        model, tools = (
            NodeSpan(f"{i}{name}", "root", "node", name, agent="agent", step=i) for name in ("model", "tools")
        )
        asked = LLMSpan(f"{i}a", model.span_id, "llm", "gpt-4o", agent="agent", step=i)
        asked.stored_input = pool.chain(prompt)
        yield model, True
        yield asked, True
        asked.status, asked.reply = "ok", _SENTENCE
        asked.tool_calls = [{"id": f"call {i}", "name": "search", "arguments": question}]
        yield asked, False
        yield model, False
        made = ToolSpan(f"{i}t", tools.span_id, "tool", "search", agent="agent", step=i)
        made.stored_input = pool.value(question)
        yield tools, True
        yield made, True
        made.status, made.stored_output = "ok", pool.value(f"question {i}: {_SENTENCE}")
        yield made, False
        yield tools, False
        prompt = [*prompt, {"role": "assistant", "content": _SENTENCE}, {"role": "tool", "content": made.stored_output}]
