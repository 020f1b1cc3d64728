import gc
import inspect
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

from shearpin import Span, Trace
from shearpin.trace.jsonl import list_traces
from shearpin.trace.spans import new_span
from shearpin_exporters.files import JSONLinesExporter


class Play:
    """A run that tells an exporter of itself, as runs do."""

    def __init__(self, exporter: JSONLinesExporter, name: str = "run") -> None:
        self.exporter = exporter
        self.trace = Trace(os.urandom(16).hex(), name, started_ns=time.time_ns())
        self.root = self.start(name, "agent")

    def start(self, name: str = "search", kind: str = "tool", **fields) -> Span:
        parent = self.trace.spans[0].span_id if self.trace.spans else None
        now = time.time_ns()
        span = new_span(kind, span_id=os.urandom(8).hex(), parent_id=parent, name=name, start_ns=now, **fields)
        self.trace.spans.append(span)
        self.exporter.span_started(self.trace, span)
        return span

    def end(self, span: Span) -> None:
        span.end_ns, span.status = time.time_ns(), "ok"
        self.exporter.span_ended(self.trace, span)

    def call(self, name: str = "search", **fields) -> None:
        self.end(self.start(name, **fields))

    def finish(self) -> None:
        self.end(self.root)
        self.trace.status, self.trace.ended_ns = "ok", time.time_ns()
        self.exporter.run_ended(self.trace)


PRELUDE = f"""
import os, sys, threading, time
from shearpin import Span, Trace
from shearpin.trace.spans import new_span
from shearpin_exporters.files import JSONLinesExporter
{inspect.getsource(Play)}
exporter = JSONLinesExporter(sys.argv[1])
"""
# Without coverage: it has threads and locks of its own, and what is tested here is forks, kills and exits.
UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
ENVIRONMENT = UNMEASURED | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def python(code: str, *arguments: object, code_of_exit: int = 0) -> tuple[str, str]:
    """Run `code` in a process of its own; what it printed, and its errors."""
    with start_python(code, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == code_of_exit, err
    return out, err


def names(trace: Trace) -> list[str]:
    return [span.name for span in trace.spans]


def records(path: Path) -> list[tuple[str, str, int]]:
    lines = [line for line in path.read_bytes().splitlines() if line]
    return [(item["of"], item["by"], item["n"]) for item in map(json.loads, lines)]


def assert_whole(path: Path) -> None:
    """Every line is a record, every record is there, and none is there twice."""
    streams = Counter((of, by) for of, by, _ in records(path))
    assert sorted(records(path)) == sorted((*stream, n) for stream, count in streams.items() for n in range(count))


def wait_for(text: bytes, path: Path) -> None:
    deadline = time.monotonic() + 20
    while text not in path.read_bytes():
        assert time.monotonic() < deadline, path.read_bytes()
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "runs.jsonl"


@pytest.fixture
def exporter(path):
    exporter = JSONLinesExporter(path)
    yield exporter
    exporter.close()


# --- while a run goes on


def test_a_run_that_ended_loads_as_it_was(path, exporter):
    play = Play(exporter)
    play.call("search", stored_input={"q": "x"}, attributes={"page": 2})
    play.finish()

    assert exporter.flush()

    trace = Trace.load(path)
    assert (trace.trace_id, trace.status, names(trace)) == (play.trace.trace_id, "ok", ["run", "search"])
    assert (trace.spans[1].input, trace.spans[1].attributes) == ({"q": "x"}, {"page": 2})
    assert_whole(path)


def test_what_was_told_can_be_read_at_once(path, exporter):
    play = Play(exporter)
    for number in range(200):
        play.call(str(number))
        assert len(Trace.load(path).spans) == number + 2
    play.finish()

    assert Trace.load(path).status == list_traces(path)[0].status == "ok"


def test_a_run_can_be_read_while_it_goes_on(path, exporter):
    play = Play(exporter)
    play.call("first")
    play.start("second")

    exporter.flush()

    trace = Trace.load(path)
    assert trace.status == "unfinished"
    assert [(span.name, span.status) for span in trace.spans] == [
        ("run", "unfinished"),
        ("first", "ok"),
        ("second", "unfinished"),
    ]


def test_what_a_run_tells_is_written_without_being_asked_for(path, exporter):
    Play(exporter).finish()

    wait_for(b'"finished":', path)

    assert Trace.load(path).status == "ok"


def test_a_start_tells_what_was_known_then_however_late_it_is_written(path, exporter):
    play = Play(exporter)
    with exporter._writer._encoding:  # noqa: SLF001 - the thread is busy elsewhere
        span = play.start("tool", attributes={"asked": 1})
        span.attributes["answered"] = 2
        play.end(span)
    exporter.flush()

    lines = [json.loads(line) for line in path.read_bytes().splitlines()]

    started = [line["started"] for line in lines if line.get("started", {}).get("name") == "tool"]
    assert [item["attributes"] for item in started] == [{"asked": 1}]
    assert "status" not in started[0]
    assert Trace.load(path).spans[1].attributes == {"asked": 1, "answered": 2}


def test_a_paused_run_that_goes_on_is_one_run(path, exporter):
    play = Play(exporter)
    play.end(play.root)
    play.trace.status, play.trace.ended_ns = "paused", time.time_ns()
    exporter.run_ended(play.trace)
    paused = Trace.load(path)
    play.trace.status, play.trace.ended_ns = "unfinished", None
    play.root.status, play.root.end_ns = "unfinished", None

    play.call("after")
    going_on = Trace.load(path)
    play.finish()

    done = Trace.load(path)
    assert [trace.status for trace in (paused, going_on, done)] == ["paused", "unfinished", "ok"]
    assert names(done) == ["run", "after"]
    assert_whole(path)


def test_spans_that_were_never_told_of_are_in_the_finished_run(path, exporter):
    play = Play(exporter)
    began = play.trace.spans[0].start_ns
    silent = new_span("tool", span_id="5" * 16, parent_id=None, name="silent", start_ns=began + 1, end_ns=began + 2)
    play.trace.spans.append(silent)
    play.finish()
    exporter.flush()

    assert names(Trace.load(path)) == ["run", "silent"]


def test_a_run_that_changes_its_spans_meanwhile_loses_none(path, exporter):
    play = Play(exporter)
    changing: list[Span] = []
    done = threading.Event()

    def change() -> None:
        number = 0
        while not done.is_set():
            for span in changing[-3:]:
                number += 1
                span.attributes[f"key {number % 500}"] = {"object": object(), "number": number}
                span.attributes.pop(f"key {(number + 250) % 500}", None)

    thread = threading.Thread(target=change)
    thread.start()
    for number in range(300):
        span = play.start(f"call {number}", attributes={"odd": {1, 2}})
        changing.append(span)
        play.end(span)
    exporter.flush()
    done.set()
    thread.join()

    assert names(Trace.load(path)) == ["run", *(f"call {number}" for number in range(300))]
    assert exporter.lost == 0


def test_many_runs_in_many_threads_share_an_exporter(path, exporter):
    def work(number: int) -> None:
        play = Play(exporter, f"run {number}")
        for call in range(100):
            play.call(f"{number}.{call}")
        play.finish()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exporter.flush()

    assert_whole(path)
    for run in list_traces(path):
        number = run.name.removeprefix("run ")
        trace = Trace.load(path, run.trace_id)
        assert (trace.status, names(trace)[1:]) == ("ok", [f"{number}.{call}" for call in range(100)])


def test_the_thread_is_a_daemon_that_starts_with_the_first_run(path):
    exporter = JSONLinesExporter(path)
    before = {thread.name for thread in threading.enumerate()}

    Play(exporter).finish()

    (thread,) = [thread for thread in threading.enumerate() if thread.name == "shearpin-jsonl"]
    assert "shearpin-jsonl" not in before
    assert thread.daemon
    exporter.close()
    assert not thread.is_alive()


# --- closing


def test_closing_writes_everything_and_may_be_repeated(path):
    exporter = JSONLinesExporter(path)
    Play(exporter).finish()

    exporter.close()
    exporter.close()

    assert Trace.load(path).status == "ok"


def test_what_comes_after_closing_is_written_too(path):
    exporter = JSONLinesExporter(path)
    play = Play(exporter)
    exporter.close()

    play.call("late")
    play.finish()
    exporter.close()

    assert names(Trace.load(path)) == ["run", "late"]
    assert Trace.load(path).gaps == []


DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors as Linux shows them")
def test_closing_leaves_no_file_open(path):
    before = len(list(DESCRIPTORS.iterdir()))
    exporter = JSONLinesExporter(path)
    Play(exporter).finish()

    exporter.close()

    assert len(list(DESCRIPTORS.iterdir())) == before


# --- an exporter that nobody holds any more


def threads_of_writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shearpin-jsonl"]


def settled(condition) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors as Linux shows them")
@pytest.mark.parametrize("told", [True, False], ids=["used", "unused"])
def test_exporters_that_are_dropped_leave_neither_threads_nor_open_files(tmp_path, told):
    threads, files = len(threads_of_writers()), len(list(DESCRIPTORS.iterdir()))

    for number in range(30):
        exporter = JSONLinesExporter(tmp_path / f"{number}.jsonl")
        if told:
            Play(exporter).finish()
        del exporter
    gc.collect()

    assert settled(lambda: len(threads_of_writers()) == threads)
    assert settled(lambda: len(list(DESCRIPTORS.iterdir())) == files)
    assert all(Trace.load(tmp_path / f"{number}.jsonl").status == "ok" for number in range(30 * told))


def test_what_a_dropped_exporter_was_told_is_written_however_much_it_is(path):
    exporter = JSONLinesExporter(path)
    play = Play(exporter)
    for number in range(5000):
        play.call(str(number))
    play.finish()

    play.exporter = None
    began = time.monotonic()
    del exporter
    gc.collect()
    took = time.monotonic() - began

    assert took < 1
    assert settled(lambda: not threads_of_writers())
    assert len(Trace.load(path).spans) == 5001
    assert_whole(path)


def test_what_a_dropped_exporter_was_told_is_written_at_exit(path):
    code = """
        play = Play(exporter)
        for number in range(5000): play.call(str(number))
        play.finish()
        del exporter, play
    """
    python(code, path)

    assert len(Trace.load(path).spans) == 5001


def test_an_exporter_dropped_while_its_disk_takes_its_time_is_not_waited_for(path):
    exporter = JSONLinesExporter(path)
    play = Play(exporter)
    with exporter._writer._writing:  # noqa: SLF001 - a write that takes its time
        play.finish()
        play.exporter = None
        began = time.monotonic()
        del exporter
        gc.collect()
        took = time.monotonic() - began

    assert took < 1
    assert settled(lambda: not threads_of_writers())
    assert Trace.load(path).status == "ok"


def test_a_dropped_exporter_without_a_thread_is_written_when_somebody_reads(path, monkeypatch):
    def none_left(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    exporter = JSONLinesExporter(path)
    play = Play(exporter)
    play.finish()
    play.exporter = None
    del exporter
    gc.collect()

    assert Trace.load(path).status == "ok"


# --- the end of a process

ENDINGS = {
    "at the end of the script": "play.finish()",
    "by sys.exit": "play.finish(); sys.exit(3)",
    "by an error": "play.finish(); raise LookupError",
    "in a thread that outlives the script": "threading.Timer(0.2, play.finish).start()",
    "in a pool of threads": """
        from concurrent.futures import ThreadPoolExecutor
        ThreadPoolExecutor().submit(lambda: (time.sleep(0.2), play.finish()))
    """,
    "in a coroutine": """
        import asyncio
        async def main():
            await asyncio.gather(*[asyncio.to_thread(play.call, "threaded") for _ in range(20)])
            play.finish()
        asyncio.run(main())
    """,
    "at exit": "import atexit; atexit.register(play.finish)",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_run_that_ends(path, ending):
    code = f"play = Play(exporter)\nfor number in range(500): play.call(str(number))\n{dedent(ending)}"

    with start_python(code, path) as process:
        process.communicate(timeout=60)

    trace = Trace.load(path)
    assert trace.status == "ok"
    assert [name for name in names(trace) if name.isdigit()] == [str(number) for number in range(500)]
    assert_whole(path)


def test_a_run_that_ends_at_exit_after_the_exporter_did(path):
    code = """
        play = Play(exporter)
        exporter.close()
        from shearpin_exporters.files import writing
        import atexit
        atexit.unregister(writing._at_exit)
        atexit.register(play.finish)
        atexit.register(writing._at_exit)
    """
    python(code, path)

    assert Trace.load(path).status == "ok"


def test_a_process_with_much_to_write_still_ends_soon(path):
    code = """
        play = Play(exporter)
        for number in range(5000): play.call("call")
        play.finish()
        print(time.time(), flush=True)
    """
    with start_python(code, path) as process:
        out, _ = process.communicate(timeout=60)
        took = time.time() - float(out)

    assert len(Trace.load(path).spans) == 5001
    assert took < 5  # half a second, on a machine that does nothing else


def test_a_killed_run_has_every_span_so_far(path):
    code = """
        play = Play(exporter, "killed")
        for number in range(20): play.call(f"call {number}")
        play.start("open", attributes={"since": "now"})
        print("ready", flush=True)
        time.sleep(60)
    """
    with start_python(code, path) as process:
        assert process.stdout.readline() == "ready\n"
        wait_for(b'"name":"open"', path)
        process.send_signal(signal.SIGKILL)

    trace = Trace.load(path)
    assert process.returncode == -signal.SIGKILL
    assert (trace.name, trace.status, trace.ended_ns) == ("killed", "unfinished", None)
    assert names(trace) == ["killed", *(f"call {number}" for number in range(20)), "open"]
    assert [span.status for span in trace.spans] == ["unfinished", *["ok"] * 20, "unfinished"]
    assert trace.spans[-1].attributes == {"since": "now"}
    assert trace.gaps == []
    assert [run.status for run in list_traces(path)] == ["unfinished"]


@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_at_any_moment_loads(path, seed):
    code = """
        play = Play(exporter, "killed")
        for number in range(1_000_000): play.call(str(number), stored_output=play.trace.pool.value("x" * number))
    """
    with start_python(code, path) as process:
        while process.poll() is None and not path.exists():
            time.sleep(0.001)
        time.sleep(random.Random(seed).uniform(0.05, 0.4))  # noqa: S311 - any moment will do
        process.send_signal(signal.SIGKILL)

    assert_loads_up_to_some_point(path)


def assert_loads_up_to_some_point(path: Path) -> None:
    if b"\n" not in path.read_bytes():  # not even its first line
        return
    trace = Trace.load(path)
    assert (trace.status, trace.gaps) == ("unfinished", [])
    numbers = [int(name) for name in names(trace)[1:]]
    assert numbers == list(range(len(numbers)))
    assert all(span.status == "ok" for span in trace.spans[1:-1])
    assert all(span.output == "x" * int(span.name) for span in trace.spans[1:-1])


# --- several processes

WORKER = """
    for run in range(3):
        play = Play(exporter, sys.argv[2])
        for number in range(100):
            text = sys.argv[2] * 700 * (number % 100)
            play.call(f"{sys.argv[2]}.{number}", stored_output=play.trace.pool.value(text))
        play.finish()
"""


@pytest.mark.slow
def test_six_processes_share_a_file_and_no_line_is_torn(path):
    with ExitStack() as processes:
        workers = [processes.enter_context(start_python(WORKER, path, worker)) for worker in "abcdef"]
        assert [worker.communicate(timeout=120) for worker in workers] == [("", "")] * 6

    assert_whole(path)
    runs = list_traces(path)
    assert Counter(run.name for run in runs) == dict.fromkeys("abcdef", 3)
    for run in runs:
        trace = Trace.load(path, run.trace_id)
        assert (trace.status, trace.gaps) == ("ok", [])
        assert names(trace)[1:] == [f"{run.name}.{number}" for number in range(100)]


def test_a_process_that_is_killed_does_not_harm_the_others(path):
    endless = "while True: Play(exporter, 'victim').call('x', stored_output='y' * 100_000)"
    with start_python(endless, path) as victim, start_python(WORKER, path, "survivor") as survivor:
        time.sleep(0.5)
        victim.kill()
        assert survivor.communicate(timeout=120) == ("", "")

    traces = [Trace.load(path, run.trace_id) for run in list_traces(path) if run.name == "survivor"]

    assert [(trace.status, trace.gaps, len(trace.spans)) for trace in traces] == [("ok", [], 101)] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_parent_and_child_write_what_is_their_own(path):
    code = """
        play = Play(exporter)
        for number in range(2000): play.call(f"before {number}")  # more than is written by now
        child = os.fork()
        if child == 0:
            play.call("in the child")
            own = Play(exporter, "child")
            own.finish()
            exporter.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        play.call("in the parent")
        play.finish()
    """
    python(code, path)

    runs = {run.name: Trace.load(path, run.trace_id) for run in list_traces(path)}
    assert_whole(path)
    assert (runs["child"].status, runs["run"].status) == ("ok", "ok")
    expected = ["run", *(f"before {number}" for number in range(2000)), "in the child", "in the parent"]
    assert sorted(names(runs["run"])) == sorted(expected)
    starts = [line for line in path.read_bytes().splitlines() if b'"started":' in line]
    assert len(starts) == len(expected) + 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_writes_to_its_very_end(path, method):
    script = path.with_name("script.py")
    script.write_text(
        PRELUDE.replace("sys.argv[1]", repr(str(path)))
        + dedent(f"""
        def work(number):
            play = Play(exporter, str(number))
            for call in range(200): play.call(str(call))
            play.finish()

        if __name__ == "__main__":
            import multiprocessing
            context = multiprocessing.get_context({method!r})
            Play(exporter, "parent").finish()
            children = [context.Process(target=work, args=(number,)) for number in range(2)]
            for child in children: child.start()
            for child in children: child.join()
    """)
    )

    subprocess.run([sys.executable, "-W", "ignore", script], env=ENVIRONMENT, check=True, timeout=60)

    runs = [Trace.load(path, run.trace_id) for run in list_traces(path)]
    assert {run.name: (run.status, len(run.spans)) for run in runs} == {
        "parent": ("ok", 1),
        "0": ("ok", 201),
        "1": ("ok", 201),
    }


# --- where it is written


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_what_is_created_is_private(tmp_path):
    path = tmp_path / "new" / "deep" / "runs.jsonl"

    JSONLinesExporter(path).close()

    modes = [stat.S_IMODE(item.stat().st_mode) for item in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_file_that_exists_keeps_its_mode_and_its_content(path):
    JSONLinesExporter(path).close()
    path.chmod(0o644)
    for name in "ab":
        exporter = JSONLinesExporter(path)
        Play(exporter, name).finish()
        exporter.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [run.name for run in list_traces(path)] == ["a", "b"]


def test_a_path_may_be_text_and_relative_to_where_the_program_is_now(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exporter = JSONLinesExporter("runs.jsonl")
    monkeypatch.chdir("/")

    Play(exporter).finish()
    exporter.close()

    assert Trace.load(tmp_path / "runs.jsonl").status == "ok"


def test_a_link_is_followed(path):
    link = path.with_name("link.jsonl")
    link.symlink_to(path)
    exporter = JSONLinesExporter(link)

    Play(exporter).finish()
    exporter.close()

    assert link.is_symlink()
    assert Trace.load(path).status == "ok"


def impossible(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    return {
        "a folder": tmp_path,
        "a device": Path(os.devnull),
        "a pipe": tmp_path / "pipe",
        "below a file": tmp_path / "file" / "runs.jsonl",
        "a link to nowhere": Path("/proc/self/nowhere/runs.jsonl"),
    }


@pytest.mark.parametrize("what", ["a folder", "a device", "a pipe", "below a file", "a link to nowhere"])
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, what):
    path = impossible(tmp_path)[what]

    with pytest.raises(OSError, match=r".") as caught:
        JSONLinesExporter(path)

    assert str(caught.value.filename) in (str(path), *map(str, path.parents))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_without_permission_is_refused_at_once(path):
    path.touch(mode=0o400)

    with pytest.raises(PermissionError, match=r"runs\.jsonl"):
        JSONLinesExporter(path)


@pytest.mark.parametrize("how", ["moved", "deleted", "emptied"])
def test_a_file_that_is_rotated_away_is_begun_anew_with_all_of_every_live_run(path, exporter, how):
    play = Play(exporter)
    play.call("before", stored_input=play.trace.pool.chain(["shared"] * 3))
    exporter.flush()
    if how == "moved":
        path.rename(path.with_name("old.jsonl"))
    elif how == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"")

    play.call("after", stored_input=play.trace.pool.chain(["shared"] * 4))
    play.finish()
    exporter.flush()

    trace = Trace.load(path)
    assert (trace.status, trace.gaps) == ("ok", [])
    assert names(trace) == ["run", "before", "after"]
    assert [span.input for span in trace.spans if span.name == "after"] == [["shared"] * 4]


def test_after_a_line_cut_off_by_a_crash_the_next_begins_on_its_own(path):
    for name in ("first", "second"):
        exporter = JSONLinesExporter(path)
        Play(exporter, name).finish()
        exporter.close()
        path.write_bytes(path.read_bytes()[:-20])

    assert [run.name for run in list_traces(path)] == ["first", "second"]
    assert [line.count(b'{"of":') for line in path.read_bytes().splitlines()] == [1] * 8


# --- a disk that takes nothing, played by a limit on the size of files

LIMITED = """
    import logging, resource
    logging.basicConfig(format="%(message)s")
    def limit(size):
        exporter.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""
needs_limits = pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits here")


@needs_limits
def test_what_a_full_disk_did_not_take_is_written_when_there_is_room_again(path):
    code = """
        play = Play(exporter)
        limit(20_001)
        for number in range(200):
            play.call(str(number), stored_output=play.trace.pool.value("x" * 200))
            if number % 20 == 0: assert not (exporter.flush() and number > 100)
        done = Play(exporter, "done meanwhile")
        done.finish()
        assert not exporter.flush() and exporter.lost == 0
        limit(resource.RLIM_INFINITY)
        play.finish()
        assert exporter.flush() and exporter.lost == 0
    """
    _, err = python(dedent(LIMITED) + dedent(code), path)

    runs = [Trace.load(path, run.trace_id) for run in list_traces(path)]
    assert [(run.name, run.status, run.gaps, len(run.spans)) for run in runs] == [
        ("run", "ok", [], 201),
        ("done meanwhile", "ok", [], 1),
    ]
    assert err == f"traces cannot be written to {path}, trying again: [Errno 27] File too large\n"


@needs_limits
def test_a_disk_that_works_again_is_noticed_without_being_asked(path):
    code = """
        play = Play(exporter)
        limit(1)
        play.finish()
        time.sleep(0.2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and b"finished" not in open(sys.argv[1], "rb").read(): time.sleep(0.05)
        os._exit(0)
    """
    python(dedent(LIMITED) + dedent(code), path)

    assert Trace.load(path).status == "ok"


@pytest.mark.slow
@needs_limits
def test_memory_is_bounded_and_a_live_run_is_whole_in_the_end(path):
    code = """
        from shearpin_exporters.files import writing
        play = Play(exporter, "live")
        limit(1)
        gone = Play(exporter, "gone")
        for number in range(2 * writing.UNWRITTEN // 1_000_000):
            for run in (play, gone): run.call(str(number), attributes={"x": "x" * 1_000_000})
        for number in range(writing.BACKLOG): play.exporter.span_ended(play.trace, play.root)
        gone.finish()
        for number in range(1000): play.exporter.span_ended(play.trace, play.root)
        held = exporter._writer._encoded - exporter._writer._written
        assert held < writing.UNWRITTEN + 4_000_000, held
        assert len(exporter._writer._queue) <= writing.BACKLOG + 2, len(exporter._writer._queue)
        limit(resource.RLIM_INFINITY)
        play.finish()
        assert exporter.flush()
        print(exporter.lost)
    """
    out, _ = python(dedent(LIMITED) + dedent(code), path)

    live = next(Trace.load(path, run.trace_id) for run in list_traces(path) if run.name == "live")
    assert int(out) > 0
    assert (live.status, len(live.spans)) == ("ok", 135)
    assert all(span.attributes == {"x": "x" * 1_000_000} for span in live.spans[1:])


@needs_limits
def test_a_process_whose_disk_is_full_ends_soon_and_says_what_is_missing(path):
    code = """
        play = Play(exporter)
        limit(1)
        play.finish()
    """
    began = time.monotonic()

    _, err = python(dedent(LIMITED) + dedent(code), path)

    assert "records of traces were not written" in err
    assert time.monotonic() - began < 10


def test_an_event_that_cannot_be_told_is_counted_and_the_others_are_written(path, exporter, caplog):
    play = Play(exporter)
    exporter.flush()
    with caplog.at_level(logging.WARNING, "shearpin"):
        exporter.span_ended(play.trace, object())  # no span at all
        play.call("good")
        play.finish()
        exporter.flush()

    assert exporter.lost == 1
    assert "could not be written" in caplog.text
    assert names(Trace.load(path)) == ["run", "good"]


# --- what an agent waits


def test_telling_takes_an_agent_microseconds(exporter):
    play = Play(exporter)
    spans = [play.start(str(number)) for number in range(2000)]
    exporter.flush()

    times = []
    for span in spans:
        times.append(time.perf_counter_ns())
        exporter.span_ended(play.trace, span)
    times.append(time.perf_counter_ns())

    took = sorted(later - earlier for earlier, later in pairwise(times))
    assert took[len(took) // 2] < 20_000


def test_an_agent_does_not_wait_for_a_slow_disk(exporter):
    play = Play(exporter)
    with exporter._writer._writing:  # noqa: SLF001 - a write that takes its time
        began = time.monotonic()
        for number in range(1000):
            play.call(str(number))
        took = time.monotonic() - began

    assert took < 1


@pytest.mark.slow
@needs_limits
def test_agents_faster_than_the_disk_are_slowed_down_rather_than_forgotten(path):
    code = """
        from shearpin_exporters.files import writing
        play = Play(exporter)
        limit(1)
        for number in range(writing.BACKLOG // 2 + 5000): play.call("x")
        assert len(exporter._writer._queue) <= writing.BACKLOG + 2
        limit(resource.RLIM_INFINITY)
        play.finish()
        assert exporter.flush() and exporter.lost == 0
        print(len(play.trace.spans))
    """
    out, _ = python(dedent(LIMITED) + dedent(code), path)

    assert len(Trace.load(path).spans) == int(out) == 55_001
    assert_whole(path)
