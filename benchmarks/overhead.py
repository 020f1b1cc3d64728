"""What complete tracing and enforcement cost an agent, in CPU time per step of a LangGraph loop.

The same agent, the same scripted model in this process (no network), with and without Shearpin, alternating in one
run; the figures are medians, and only their ratio means anything on another machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from shearpin import Budget, Guard, LoopBreaker
from shearpin_exporters.files import JSONLinesExporter
from shearpin_integrations.langgraph import ShearpinCallbackHandler

CEILING = 1.15
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it looks for another way around. "


class Scripted(BaseChatModel):
    """Asks for one tool call a turn, `turns` times, with a paragraph of text; then answers."""

    turns: int

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": "gpt-4o", "ls_model_type": "chat", "ls_max_tokens": 100}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        turn = len(messages) // 2
        usage = {"input_tokens": 100 * turn, "output_tokens": 50, "total_tokens": 100 * turn + 50}
        calls = [{"name": "search", "args": {"query": f"question {turn}"}, "id": f"call-{turn}"}]
        message = AIMessage(SENTENCE * 3, tool_calls=calls if turn < self.turns else [], usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def search(query: str) -> str:
    """Search."""
    return f"{query}: {SENTENCE}"


def cpu_per_step(run: Callable[[], object], steps: int) -> float:
    """CPU seconds of this process a step, all threads."""
    before = time.process_time()
    run()
    return (time.process_time() - before) / steps


def main() -> int:
    """Measure and print; fails above the ceiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=25)
    options = parser.parse_args()
    rounds, turns = (8 if options.quick else 40), options.turns

    agent = create_agent(Scripted(turns=turns), [search])
    question = {"messages": [("user", "Find it.")]}
    limit = {"recursion_limit": 10 * turns}
    rules = (Budget(usd=100, steps=10_000, tokens=10**9), LoopBreaker())
    with tempfile.TemporaryDirectory() as folder:
        exporter = JSONLinesExporter(Path(folder) / "runs.jsonl")
        variants: dict[str, list[Any]] = {
            "bare": [],
            "guarded": [ShearpinCallbackHandler(Guard(*rules))],
            "guarded and written to a file": [ShearpinCallbackHandler(Guard(*rules, exporters=[exporter]))],
        }
        samples: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(rounds + 2):
            for name, callbacks in variants.items():
                sample = cpu_per_step(lambda c=callbacks: agent.invoke(question, {**limit, "callbacks": c}), turns + 1)
                if number >= 2:  # the first rounds warm up
                    samples[name].append(sample)
        exporter.close()
    medians = {name: statistics.median(values) for name, values in samples.items()}
    print(f"{rounds} rounds of {turns + 1} steps; a step is one model call and one tool call")
    for name, median in medians.items():
        ratio = statistics.median(b / a for a, b in zip(samples["bare"], samples[name], strict=True))
        print(f"{name:32} {median * 1e3:7.3f} ms of CPU a step   x{ratio:.3f}")
    guarded = statistics.median(b / a for a, b in zip(samples["bare"], samples["guarded"], strict=True))
    print(f"overhead of enforcement and tracing: {guarded - 1:+.1%} (ceiling {CEILING - 1:+.0%})")
    return 0 if guarded <= CEILING else 1


if __name__ == "__main__":
    sys.exit(main())
