"""`shearpin run` on an unchanged LangGraph script."""

import os
import subprocess
import sys

import pytest

from shearpin import Trace
from shearpin.testing import endless

SCRIPT = """
import os
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI

def search(q: str) -> str:
    "Search."
    return "nothing"

model = ChatOpenAI(model="gpt-4o", base_url=os.environ["SERVER"], api_key="any")
create_agent(model, [search]).invoke({"messages": [("user", "Find it.")]})
print("not reached")
"""


@pytest.mark.parametrize("command", [[], [sys.executable]], ids=["a script", "a command"])
def test_a_run_that_loops_is_stopped_and_told_in_a_line(serve, tmp_path, command):
    server = serve(endless("search", {"q": "x"}))
    (tmp_path / "agent.py").write_text(SCRIPT, encoding="utf-8")
    options = ["--budget-usd", "1", "--loop-threshold", "3", "--trace-file", str(tmp_path / "runs.jsonl")]
    whole = [sys.executable, "-m", "shearpin.cli", "run", *options, *command, str(tmp_path / "agent.py")]

    done = subprocess.run(
        whole,
        env=os.environ | {"SERVER": server.base_url},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=90,
    )

    assert (done.returncode, done.stdout, server.served) == (75, "", 4)
    first, second = done.stderr.splitlines()
    assert first.startswith("shearpin: LangGraph: run stopped: loop: the same call with the same result, search(q='x')")
    trace = Trace.load(tmp_path / "runs.jsonl")
    assert second.endswith(f"show {tmp_path}/runs.jsonl --trace {trace.trace_id[:8]}")
    assert (trace.status, trace.llm_calls) == ("stopped", 4)
