"""The command line: what it shows, and that what goes wrong is one line and an exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shearpin
import shearpin_integrations
from shearpin.cli import COMMANDS, main
from shearpin.errors import RunStoppedError
from shearpin.trace import DecisionSpan, Stop, ToolSpan, Trace, Usage
from shearpin.trace.lines import TraceLines

DAY = 86_400_000_000_000


def a_run(trace_id, name, day, **fields) -> Trace:
    tool = ToolSpan(
        f"{trace_id[:8]}00000001", None, "tool", "search", start_ns=day * DAY, end_ns=day * DAY, status="ok"
    )
    times = {"started_ns": day * DAY, "ended_ns": day * DAY}
    return Trace(trace_id, name, spans=[tool], tool_calls=1, **times, **{"status": "ok"} | fields)


def stopped(trace: Trace) -> Trace:
    error = RunStoppedError("the budget of $0.50 is used up")
    trace.spans.append(
        DecisionSpan("f" * 16, None, "decision", "stop", verdict="stop", rule="Budget", reason=str(error))
    )
    trace.stop, trace.status = Stop(error, "Budget", "f" * 16), "stopped"
    return trace


@pytest.fixture
def runs(tmp_path):
    """A file of three runs, the newest in the middle."""
    traces = [
        a_run("aa11" + "0" * 28, "morning", 20_001, usage=Usage(cost_usd=0.0075), steps=1200),
        stopped(a_run("aa22" + "0" * 28, "evening", 20_003)),
        a_run("bb33" + "0" * 28, "noon\x1b[2J", 20_002, status="error", usage=Usage(cost_usd=None)),
    ]
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"".join(TraceLines(trace).finished() for trace in traces))
    return path


def complaint(capsys) -> str:
    """The one line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shearpin: ")
    assert err.count("\n") == 1
    return err.strip()


# --- show


def test_show_prints_the_newest_run(runs, capsys):
    assert main(["show", str(runs)]) == 0

    out = capsys.readouterr().out
    assert out.startswith(" ✋ STOPPED   evening\n")
    assert "┃ why      the budget of $0.50 is used up" in out


def test_show_prints_the_run_whose_id_begins_so(runs, capsys):
    assert main(["show", str(runs), "--trace", "aa1"]) == 0

    assert capsys.readouterr().out.startswith("✓ ok  morning\n")


def test_show_wants_an_id_that_names_one_run(runs, capsys):
    assert main(["show", str(runs), "--trace", "aa"]) == 2

    assert "2 traces begin with aa" in complaint(capsys)


def test_show_says_that_there_is_no_such_run(runs, capsys):
    assert main(["show", str(runs), "--trace", "cc"]) == 2

    assert "cc" in complaint(capsys)


def test_show_lists_the_runs_of_a_file(runs, capsys):
    assert main(["show", str(runs), "--list"]) == 0

    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["trace", "started", "status", "steps", "cost", "name"]
    assert [row.split()[0] for row in rows] == ["aa1100000000", "bb3300000000", "aa2200000000"]
    assert rows[0].split()[3:] == ["✓", "ok", "1,200", "$0.0075", "morning"]
    assert rows[1].endswith(r"unpriced  noon\x1b[2J")
    assert "✋ STOPPED" in rows[2]


def test_show_is_coloured_when_forced_and_plain_when_told(runs, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")

    main(["show", str(runs)])
    assert "\x1b[" in capsys.readouterr().out
    main(["show", str(runs), "--no-color"])
    assert "\x1b[" not in capsys.readouterr().out


def test_show_prints_every_step_when_asked_for_all(tmp_path, capsys):
    trace = a_run("aa11" + "0" * 28, "long", 20_000)
    trace.spans = [
        ToolSpan(f"{number:016x}", None, "tool", "search", start_ns=number, stored_input={"page": number})
        for number in range(1, 51)
    ]
    path = tmp_path / "runs.jsonl"
    path.write_bytes(TraceLines(trace).finished())

    main(["show", str(path)])
    assert "… 42 more tool calls" in capsys.readouterr().out
    main(["show", str(path), "--full"])
    assert capsys.readouterr().out.count("tool search") == 50


@pytest.mark.parametrize("option", [[], ["--list"], ["--trace", "a"]])
@pytest.mark.parametrize("content", [None, b"", b"not json\n", b'{"a": 1}\n', b"\x80\x00\n"])
def test_show_says_what_is_no_file_of_traces(tmp_path, capsys, content, option):
    path = tmp_path / "runs\x1b[2J.jsonl"
    if content is not None:
        path.write_bytes(content)

    assert main(["show", str(path), *option]) == 2

    assert r"runs\x1b[2J.jsonl" in complaint(capsys)


# --- show, of a file with a bad run


@pytest.fixture
def damaged(runs):
    """The same runs, and a fourth, the newest, whose tag is no text."""
    bad = {
        "of": "bb44" + "0" * 28,
        "by": "b",
        "n": 0,
        "run": {"schema": 1, "name": "bad", "identity": {"tags": [2024]}},
    }
    runs.write_bytes(runs.read_bytes() + json.dumps(bad).encode() + b"\n")
    return runs


@pytest.mark.parametrize(("option", "shown"), [([], "evening"), (["--trace", "aa1"], "morning"), (["--list"], "noon")])
def test_show_shows_what_can_be_read(damaged, capsys, option, shown):
    assert main(["show", str(damaged), *option]) == 0

    out, err = capsys.readouterr()
    assert shown in out
    assert "bad" not in out
    if option[:1] != ["--trace"]:
        assert re.match(r"shearpin: .*: unreadable lines left out: 1; the first is line \d+: identity\.tags\.0: ", err)
        assert err.count("\n") == 1


def test_show_says_what_is_wrong_with_the_run_that_was_asked_for(damaged, capsys):
    assert main(["show", str(damaged), "--trace", "bb4"]) == 2

    assert "identity.tags.0" in complaint(capsys)


def test_show_says_once_what_it_left_out_however_often_it_is_called(damaged, capsys):
    for _ in range(3):
        main(["show", str(damaged), "--list"])

    assert capsys.readouterr().err.count("\n") == 3


def test_show_takes_numbers_of_any_size(tmp_path, capsys):
    many = 10**400
    span = {"span_id": "1", "parent_id": None, "kind": "llm", "name": "m", "usage": {"input_tokens": many}}
    records = [
        {"run": {"schema": 1, "name": "n", "started_ns": 1}},
        {
            "ended": span,
            "sums": {"steps": many, "llm_calls": many, "tool_calls": -many, "usage": {"input_tokens": many}},
        },
    ]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps({"of": "a", "by": "b", "n": n} | r) + "\n" for n, r in enumerate(records)))

    assert main(["show", str(path)]) == main(["show", str(path), "--list"]) == 0

    out = capsys.readouterr().out
    assert ">1,000,000,000,000,000 tokens in" in out
    assert max(map(len, out.splitlines())) <= 140


# --- demo


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A place for the module of the demo, which a test writes."""
    monkeypatch.setattr(shearpin_integrations, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "shearpin_integrations.langgraph_demo", raising=False)
    yield tmp_path / "langgraph_demo.py"
    sys.modules.pop("shearpin_integrations.langgraph_demo", None)


def test_demo_is_run_with_what_was_asked_for(demo, tmp_path, capsys):
    demo.write_text("def main(live, out):\n    print(live, out.name)\n    return 75\n")

    assert main(["demo", "--live", "--out", str(tmp_path / "here")]) == 75

    assert capsys.readouterr().out == "True here\n"


def test_demo_says_how_to_install_what_it_needs(demo, capsys):
    demo.write_text(
        "import shearpin\ndef main(live, out):\n    raise shearpin.MissingIntegrationError('pip install this')\n"
    )

    assert main(["demo"]) == 2

    assert complaint(capsys) == "shearpin: a package is missing; to install it: pip install this"


def test_demo_says_that_it_is_not_there(demo, capsys):
    assert main(["demo"]) == 2

    assert "this installation has no demo" in complaint(capsys)


def test_a_demo_that_is_broken_is_not_hidden(demo):
    demo.write_text("import a_module_of_its_own")

    with pytest.raises(ModuleNotFoundError, match="a_module_of_its_own"):
        main(["demo"])


# --- all of them


def test_a_folder_that_cannot_be_written_is_one_line(demo, capsys):
    demo.write_text("def main(live, out):\n    raise PermissionError(13, 'Permission denied', str(out))\n")

    assert main(["demo", "--out", "there"]) == 2

    assert complaint(capsys) == "shearpin: there: Permission denied"


def test_an_interrupt_ends_it_quietly(demo, capsys):
    demo.write_text("def main(live, out):\n    raise KeyboardInterrupt\n")

    assert main(["demo"]) == 130

    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_seen_enough_is_no_error(runs):
    code = "import sys; from shearpin.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "show", str(runs)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""

    assert process.returncode == 0


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`line` in a shell, with `$shearpin` and `$1`, `$2`, …"""
    command = f"{sys.executable} -c 'import sys; from shearpin.cli import main; sys.exit(main())'"
    script = f'shearpin() {{ {command} "$@"; }}; {line}'
    return subprocess.run(["sh", "-c", script, "sh", *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["", "--list"])
def test_a_closed_stdout_is_no_error(runs, option):
    done = shell(f"shearpin show $1 {option} >&-", runs)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stderr_changes_nothing(runs):
    done = shell("shearpin show $1 --trace none 2>&-", runs)

    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full, as Linux has one")
def test_a_full_disk_is_one_line(runs):
    done = shell("shearpin show $1 >/dev/full", runs)

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in done.stderr


def test_it_tells_its_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out == f"shearpin {shearpin.__version__}\n"


def test_without_a_command_it_tells_which_there_are(capsys):
    assert main([]) == 2

    out = capsys.readouterr().out
    assert all(f"    {command.name} " in out for command in COMMANDS)


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["fly"])

    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_no_argument_reaches_the_terminal_raw(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["show", "runs.jsonl", "\x1b[2Jb.jsonl"])

    assert r"unrecognized arguments: \x1b[2Jb.jsonl" in capsys.readouterr().err
