"""What complete tracing and enforcement cost an agent, in CPU time per step of a LangGraph loop.

The same agent with and without Shearpin, alternating in one run; only the ratio means anything on another machine.
Two agents: one as people run them, whose model is asked by the real `ChatOpenAI` client, of a server in another
process that answers at once; and the least there can be, whose model is a function in this process. The ceiling is
for the first: a step of an agent has a request in it. The second shows the cost in a magnifying glass.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import ChatOpenAI

from shearpin import Budget, Guard, LoopBreaker
from shearpin.testing import Reply, Request, ScriptedServer, reply, tool_call
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


@contextmanager
def server(turns: int) -> Iterator[str]:
    """The base URL of a provider in another process, whose CPU time is its own."""
    command = [sys.executable, __file__, "--serve", "--turns", str(turns)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - itself
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def serve(turns: int) -> int:
    """Be that provider, until there is nobody left who wants one."""

    def script(request: Request) -> Reply:
        if request.turn == turns:
            return reply("Found.")
        return tool_call("search", {"query": f"question {request.turn}"}, text=SENTENCE * 3)

    with ScriptedServer(script, keep=0) as provider:
        print(provider.base_url, flush=True)
        sys.stdin.read()
    return 0


def compare(agent: Any, rounds: int, turns: int, exporter: JSONLinesExporter) -> float:
    """Print what each variant costs; the median ratio of guarded to bare."""
    rules = (Budget(usd=100, steps=10_000, tokens=10**9), LoopBreaker())
    question: Any = {"messages": [("user", "Find it.")]}
    variants: dict[str, list[Any]] = {
        "bare": [],
        "guarded": [ShearpinCallbackHandler(Guard(*rules))],
        "guarded and written to a file": [ShearpinCallbackHandler(Guard(*rules, exporters=[exporter]))],
    }
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 2):
        for name, callbacks in variants.items():
            config = {"recursion_limit": 10 * turns, "callbacks": callbacks}
            sample = cpu_per_step(lambda config=config: agent.invoke(question, config), turns + 1)  # type: ignore[misc]
            if number >= 2:  # the first rounds warm up
                samples[name].append(sample)
    bare = samples["bare"]
    ratios = {name: statistics.median(map(float.__truediv__, values, bare)) for name, values in samples.items()}
    for name, values in samples.items():
        print(f"  {name:32} {statistics.median(values) * 1e3:7.3f} ms of CPU a step   x{ratios[name]:.3f}")
    return ratios["guarded"]


def main() -> int:
    """Measure and print; fails above the ceiling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds, turns = (8 if options.quick else 40), options.turns
    if options.serve:
        return serve(turns)

    print(f"{rounds} rounds of {turns + 1} steps; a step is one model call and one tool call")
    with tempfile.TemporaryDirectory() as folder, closing(JSONLinesExporter(Path(folder) / "runs.jsonl")) as exporter:
        print("an agent with the real client")
        with server(turns) as base_url:
            model = ChatOpenAI(model="gpt-4o", base_url=base_url, api_key="none")  # type: ignore[arg-type]
            real = compare(create_agent(model, [search]), rounds, turns, exporter)
        print("the least an agent can be: a model in this process")
        least = compare(create_agent(Scripted(turns=turns), [search]), rounds, turns, exporter)
    print(f"overhead: {real - 1:+.1%} (ceiling {CEILING - 1:+.0%}), and {least - 1:+.1%} of the least")
    return 0 if real <= CEILING else 1


if __name__ == "__main__":
    sys.exit(main())
