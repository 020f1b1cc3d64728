"""`shearpin run` without any framework: what it starts, what it refuses, what it says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shearpin.importing import when_imported


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shearpin.cli", "run", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, encoding="utf-8", check=False, timeout=60
    )


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "script.py"
    path.write_text("import sys; print(__name__, sys.argv[1:]); sys.exit(3)", encoding="utf-8")
    return path


def test_a_script_runs_as_it_would_by_itself(script):
    done = run("--budget-usd", "1", str(script), "--flag", "-v", "value")

    assert (done.returncode, done.stdout) == (3, "__main__ ['--flag', '-v', 'value']\n")


@pytest.mark.slow
def test_so_does_a_module_and_a_command(script):
    assert run("--budget-usd", "1", "-m", "json.tool", "--help").returncode == 0
    assert run("--budget-usd", "1", "--", sys.executable, str(script)).returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.py"], "run needs a rule"),
        (["--budget-usd", "1"], "run needs a script or a command"),
        (["--budget-usd", "1", "no-such-script.py"], "no-such-script.py: no such script or command"),
        (["--budget-usd", "-1", "--", sys.executable, "-V"], "must be a finite number"),
        (["--loop-threshold", "1", "--", sys.executable, "-V"], "2 or more"),
        (["--deny", "a(b", "--", sys.executable, "-V"], "must look like"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(arguments, says):
    done = run(*arguments)

    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_it_says_when_it_saw_nothing(script):
    assert "no run was seen: it guards LangChain" in run("--budget-usd", "1", str(script)).stderr


def test_it_says_when_nothing_could_be_guarded():
    done = run("--budget-usd", "1", "true")

    assert (done.returncode, "nothing was guarded" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_sitecustomize_of_the_environment_runs_too(script, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('theirs')", encoding="utf-8")

    done = run("--budget-usd", "1", str(script), PYTHONPATH=str(tmp_path))

    assert sorted(done.stdout.splitlines()) == ["__main__ []", "theirs", "theirs"]  # in the command, and in the script


@pytest.mark.slow
def test_processes_further_down_are_guarded_too(tmp_path):
    path = tmp_path / "outer.py"
    inner = "import os, json; print(json.loads(os.environ['SHEARPIN_RUN'])['budget'])"
    path.write_text(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])", encoding="utf-8")

    assert run("--budget-tokens", "5", "--budget-llm-calls", "2", str(path)).stdout == "{'tokens': 5, 'llm_calls': 2}\n"


@pytest.mark.slow
def test_a_signal_is_passed_on(tmp_path):
    path = tmp_path / "waits.py"
    path.write_text("import time; print('ready', flush=True); time.sleep(60)", encoding="utf-8")
    command = [sys.executable, "-m", "shearpin.cli", "run", "--budget-usd", "1", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()

        assert process.wait(30) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 20


# --- once a package is imported


def test_what_is_imported_already_is_told_at_once():
    told = []

    when_imported("json", lambda: told.append(json.dumps(1)))

    assert told == ["1"]


def test_what_is_imported_later_is_told_after_its_code_has_run(tmp_path, monkeypatch):
    (tmp_path / "late_package_of_ours.py").write_text("VALUE = 7", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    told = []
    for _ in range(2):
        when_imported("late_package_of_ours", lambda: told.append(sys.modules["late_package_of_ours"].VALUE))

    import late_package_of_ours

    assert told == [7, 7]
    assert late_package_of_ours.__spec__.loader.get_source("late_package_of_ours") == "VALUE = 7"


def test_what_is_never_there_is_never_told():
    when_imported("no_package_of_this_name", lambda: pytest.fail("told"))

    with pytest.raises(ModuleNotFoundError):
        __import__("no_package_of_this_name")
