"""`shearpin demo`: what its runs leave behind, and what it does where they cannot be had."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shearpin import MissingIntegrationError, ShearpinError, Trace
from shearpin.testing import ScriptedServer, error, reply
from shearpin.trace.jsonl import list_traces
from shearpin_integrations import langgraph_demo

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-W", "error", "-m", "shearpin.cli", "demo"]
QUIET = {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"}


def run_demo(out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in QUIET}
    command = [*COMMAND, "--out", str(out), *options]
    return subprocess.run(
        command, env=clean | environment, cwd=out, encoding="utf-8", capture_output=True, check=False, timeout=100
    )


def traces_in(path: Path) -> dict[str, Trace]:
    traces = [Trace.load(path, run.trace_id) for run in list_traces(path)]
    return {trace.name: trace for trace in traces}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def played(out) -> subprocess.CompletedProcess[str]:
    """With a proxy and LangSmith in the environment, which nobody may call."""
    nowhere = "http://127.0.0.1:9"
    return run_demo(out, HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere, OPENAI_PROXY=nowhere, LANGSMITH_TRACING="true")


@pytest.fixture(scope="module")
def traces(played, out) -> dict[str, Trace]:
    return traces_in(out / "runs.jsonl")


# --- what happened


def test_everything_happens_as_told(played):
    assert (played.returncode, played.stderr) == (0, "")


def test_two_of_the_four_runs_are_stopped(traces):
    assert {name: trace.status for name, trace in traces.items()} == {
        "support": "ok",
        "warranty": "stopped",
        "contract": "stopped",
        "explain": "ok",
    }


def test_the_loop_is_stopped_before_its_fourth_search(traces):
    trace = traces["warranty"]

    assert (trace.stop.rule, trace.llm_calls, trace.tool_calls) == ("LoopBreaker", 4, 3)


def test_the_fan_out_is_stopped_within_its_budget(traces):
    trace = traces["contract"]

    assert trace.stop.rule == "Budget"
    assert 0 < trace.llm_calls < 20
    assert 0.015 < trace.usage.cost_usd <= 0.03


def test_every_call_has_its_price(traces):
    assert all(span.usage.cost_usd > 0 for trace in traces.values() for span in trace.spans_of("llm"))


# --- what is printed


def test_it_is_short_and_plain_in_a_pipe(played, out):
    lines = played.stdout.replace(str(out), "a-folder-of-the-reader").splitlines()

    assert len(lines) < 140
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in played.stdout


def test_it_tells_what_the_stop_saved(played):
    rows = re.findall(r"^ {4}\S.*  (\d+)  +\$([\d.]+)$", played.stdout, re.MULTILINE)
    (stopped, limited, unlimited) = [(int(calls), float(usd)) for calls, usd in rows]

    assert stopped[0] == 4
    assert limited[0] == 13
    assert stopped[1] < limited[1] < unlimited[1]
    said = " ".join(played.stdout.split())
    saved = [f"${run[1] - stopped[1]:.2f}" for run in (limited, unlimited)]
    assert f"So the stop saved {saved[0]} where recursion_limit is 25, and {saved[1]} where it is not set." in said
    assert re.search(r"without Shearpin, .*: 20 calls, \$[\d.]+\. So the stop saved 1\d calls, .* and \$[\d.]+\.", said)


def test_a_stop_is_told_where_it_happened_and_in_the_summary_and_nowhere_else(played):
    assert played.stdout.count("loop: the same call with the same result") == 2
    assert played.stdout.count("does not fit llm gpt-4o") == 2
    assert "✗" not in played.stdout


def test_it_says_where_the_file_is_on_one_line(played, out):
    assert f"{out / 'runs.jsonl'}:" in played.stdout.split()


def test_the_commands_it_names_show_what_it_says(played, traces, out):
    named = re.findall(r"^ {4}shearpin (show .*--trace .*)  # (\w+)$", played.stdout, re.MULTILINE)

    shown = [
        subprocess.run([sys.executable, "-m", "shearpin.cli", *command.split()], capture_output=True, check=True)
        for command, _ in named
    ]

    assert [name for _, name in named] == ["warranty", "contract"]
    assert all(traces[name].trace_id in found.stdout.decode() for (_, name), found in zip(named, shown, strict=True))


# --- what it does elsewhere


@pytest.mark.slow
def test_what_an_earlier_demo_left_stays_as_it_is(tmp_path):
    before = tmp_path / "runs.jsonl"
    before.write_text("mine\n")

    ended = run_demo(tmp_path, COLUMNS="80", PYTHONIOENCODING="ascii", FORCE_COLOR="1")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b[1m== 1/4  An agent that does its work ===" in ended.stdout
    assert before.read_text() == "mine\n"
    assert len(traces_in(tmp_path / "runs-2.jsonl")) == 4


@pytest.mark.slow
def test_a_story_that_goes_another_way_is_a_failure(tmp_path):
    with ScriptedServer(lambda _: reply("I do not know.")) as server:
        ended = run_demo(tmp_path, "--live", OPENAI_API_KEY="any", OPENAI_BASE_URL=server.base_url)

    assert (ended.returncode, ended.stderr) == (1, "")
    assert re.findall(r"^NOT AS TOLD: (\w+)", ended.stdout, re.MULTILINE) == ["warranty"]
    assert traces_in(tmp_path / "runs.jsonl")["warranty"].status == "ok"


@pytest.mark.slow
def test_a_real_model_that_refuses_ends_it_at_once(tmp_path):
    with ScriptedServer(lambda _: error(401)) as server:
        ended = run_demo(tmp_path, "--live", OPENAI_API_KEY="wrong", OPENAI_BASE_URL=server.base_url)

        assert (ended.returncode, ended.stderr, server.count()) == (1, "", 1)
    assert "Traceback" not in ended.stdout


def test_a_real_model_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(ShearpinError, match="OPENAI_API_KEY"):
        langgraph_demo.main(live=True, out=tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["langchain.agents", "langchain_openai", "langgraph.errors"])
def test_without_its_frameworks_it_tells_how_to_install_them(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.startswith(f"{langgraph_demo.__name__}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingIntegrationError, match=r"^pip install 'shearpin\[demo\]'$"):
        langgraph_demo.main(live=False, out=tmp_path)


@pytest.mark.slow
def test_a_folder_of_any_name_reaches_the_terminal_harmless(tmp_path):
    out = tmp_path / "a\x1b[2J\u202eb"
    out.mkdir()
    with ScriptedServer(lambda _: error(401, "no\x1b[2Jkey")) as server:
        ended = run_demo(out, "--live", OPENAI_API_KEY="wrong", OPENAI_BASE_URL=server.base_url)

    assert r"a\x1b[2J\u202eb/runs.jsonl" in ended.stdout
    assert not {"\x1b", "\u202e"} & set(ended.stdout)


def test_the_extra_has_all_that_it_imports():
    root = Path(__file__).parents[3]
    code = "".join(path.read_text(encoding="utf-8") for path in Path(langgraph_demo.__file__).parent.glob("*.py"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {Requirement(item).name for item in project["optional-dependencies"]["demo"]}

    imported = {name.replace("_", "-") for name in re.findall(r"^from (lang(?:chain|graph)\w*)", code, re.MULTILINE)}

    assert imported == {"langchain", "langchain-core", "langchain-openai", "langgraph"}
    assert named == imported
