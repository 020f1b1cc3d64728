"""`shearpin run` on an unchanged CrewAI script, and on a command that starts one in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shearpin import Trace
from shearpin.testing import endless
from tests.integrations.crewai.conftest import Serve

SCRIPT = """
import os
from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

@tool
def search(q: str) -> str:
    "Search."
    return "nothing"

def kickoff() -> None:
    llm = LLM(model="openai/gpt-4o", base_url=os.environ["SERVER"], api_key="any")
    agent = Agent(role="r", goal="g", backstory="b", llm=llm, tools=[search])
    task = Task(description="Find it.", expected_output="It.", agent=agent)
    Crew(name="finders", agents=[agent], tasks=[task]).kickoff()
    print("not reached")

if __name__ == "__main__":
    kickoff()
"""

PROJECT_COMMAND = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", "import agent; agent.kickoff()"]).returncode)
"""
"""What ``crewai run`` does: it starts the project's own command, in which a Python imports the project."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["agent.py", "command.py"])
def test_a_crew_that_loops_is_stopped_and_told_in_a_line(serve: Serve, tmp_path: Path, name: str):
    server = serve(endless("search", {"q": "x"}))
    (tmp_path / "agent.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "command.py").write_text(PROJECT_COMMAND, encoding="utf-8")
    options = ["--budget-tool-calls", "9", "--loop-threshold", "3", "--trace-file", "runs.jsonl"]

    done = subprocess.run(
        [sys.executable, "-m", "shearpin.cli", "run", *options, str(tmp_path / name)],
        cwd=tmp_path,
        env=os.environ | {"SERVER": server.base_url},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )

    assert (done.returncode, done.stdout, server.served) == (75, "", 4), done.stderr
    first, second = [line for line in done.stderr.splitlines() if line.startswith("shearpin:")]
    assert first.startswith("shearpin: finders: run stopped: loop: the same call with the same result, search(q='x')")
    trace = Trace.load(tmp_path / "runs.jsonl")
    assert second.endswith(f"runs.jsonl --trace {trace.trace_id[:8]}")
    assert (trace.name, trace.status, trace.llm_calls, trace.tool_calls) == ("finders", "stopped", 4, 3)
    assert "Traceback" not in done.stderr


def test_importing_shearpin_imports_no_crewai():
    code = """
import sys, shearpin
shearpin.install(shearpin.Guard(shearpin.LoopBreaker()))
print("crewai" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stdout.strip() == "False"
