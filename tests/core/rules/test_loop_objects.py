"""The loop breaker and tools that take and return Python objects: what does not show proves nothing."""

import io
import itertools
import threading

import httpx
import pytest

from shearpin import Guard, LoopBreaker
from tests.core.rules.loop_stories import stopped_after


class Hit:
    def __init__(self, text):
        self.text = text


class Job:
    def __init__(self, state):
        self.id, self.state = 1, state

    def __repr__(self):
        return f"Job({self.id})"


class Session:
    def __init__(self):
        self.lock = threading.Lock()
        self.made = object()


def nested(depth, value):
    for _ in range(depth):
        value = {"next": value}
    return value


def results(make):
    return (("look", {"at": "a"}, make(i)) for i in itertools.count())


@pytest.mark.parametrize(
    "make",
    [
        lambda i: io.BytesIO(b"page %d" % i),
        lambda i: [Hit(f"text {i}")],
        lambda i: httpx.Response(200, text=f"{i}% done"),
        lambda i: Job(f"{i}% done"),
        lambda i: nested(70, i),
        lambda i: (word for word in [str(i)]),
        lambda i: str(object()),
        lambda i: [Session(), f"page {i}"],
    ],
)
def test_answers_that_may_differ_are_no_loop(make):
    assert stopped_after(results(make)) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda i: [Hit("nothing found")],
        lambda i: httpx.Response(404, text="nothing"),
        lambda i: nested(100, "nothing"),
        lambda i: Hit(Hit("nothing")),
    ],
)
def test_equal_objects_are_the_same_answer(make):
    kept = [make(i) for i in range(20)]  # so that each has an address of its own

    assert stopped_after(results(kept.__getitem__)) == 3


@pytest.mark.parametrize("given", [Session, lambda: print, threading.Lock, object])
def test_an_object_of_the_program_among_the_arguments_hides_no_loop(given):
    kept = [given() for _ in range(20)]

    assert stopped_after(("search", {"q": "x", "session": one}, "nothing") for one in kept) == 3


@pytest.mark.parametrize("answer", ["ok", "no speech in it", "yes", "ERROR 500 in line"])
def test_files_that_are_handed_in_are_not_taken_for_one_another(answer):
    files = (io.BytesIO(b"song %d" % i) for i in range(8))

    assert stopped_after(("hear", {"file": file, "language": "en"}, answer) for file in files) is None


def test_objects_that_are_handed_in_are_told_apart_by_what_they_hold():
    assert stopped_after(("store", {"row": Hit(str(i))}, "ok") for i in range(20)) is None
    assert stopped_after(("store", {"row": Hit("a")}, "ok") for _ in range(20)) == 3


def test_tools_that_are_decorated_see_their_objects_unread():
    pin = Guard(LoopBreaker())
    pages = iter(range(10))

    @pin.tool
    def next_page(book: str) -> io.BytesIO:
        return io.BytesIO(f"{book}, page {next(pages)}".encode())

    with pin.run("reader"):
        assert [next_page("b").read() for _ in range(10)] == [b"b, page %d" % i for i in range(10)]
