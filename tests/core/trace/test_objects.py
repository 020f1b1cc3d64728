"""What a trace tells of objects that are no plain data."""

import io
import re
import threading
import timeit
from collections import deque
from enum import Enum
from types import SimpleNamespace

import httpx
import pytest

from shearpin.trace.plain import plain


class Hit:
    def __init__(self, text, **more):
        self.text = text
        vars(self).update(more)


class Slotted:
    __slots__ = ("_seen", "text", "unset")

    def __init__(self):
        self.text, self._seen = "a", [1]


class Named(Hit):
    def __repr__(self):
        return f"Named({self.text!r})"


class Hostile:
    def __init__(self):
        self.text = "a"

    def __getattr__(self, name):
        raise AssertionError(name)

    @property
    def secretly(self):
        raise AssertionError("a property was run")


class Colour(Enum):
    RED = 1


class Answer:
    """As the HTTP clients have it."""

    def __init__(self, body):
        self.status_code, self._content = 200, body

    def __repr__(self):
        return "<Answer [200]>"

    @property
    def content(self):
        raise AssertionError("reading it uses it up")

    def iter_content(self):
        return self.content

    def close(self):
        pass


def test_an_object_that_holds_data_is_told_by_what_it_holds():
    assert plain(Hit("a", score=0.5, of=Hit("b"))) == {"text": "a", "score": 0.5, "of": {"text": "b"}}
    assert plain([Slotted()]) == [{"text": "a", "_seen": [1]}]
    assert plain(SimpleNamespace(role="user")) == {"role": "user"}
    assert plain(deque([Hit("a")])) == [{"text": "a"}]
    assert plain({1: Hit("a")}.values()) == [{"text": "a"}]


def test_no_code_of_an_object_is_run_to_see_what_it_holds():
    assert plain(Hostile()) == {"text": "a"}


def test_a_repr_that_says_all_is_kept():
    assert plain(Named("a")) == "Named('a')"
    assert plain(Colour.RED) == "<Colour.RED: 1>"
    assert plain(Hit) == f"<class '{__name__}.Hit'>"


@pytest.mark.parametrize("part", [threading.Lock(), print, Hit("a", password="x").__init__, re, object()])
def test_an_object_of_the_running_program_is_only_named(part):
    assert re.fullmatch(r"<\S+\.Hit object, not recorded>", plain(Hit("a", part=part)))


@pytest.mark.parametrize("name", ["api_key", "password", "access_token"])
def test_an_object_that_holds_a_secret_is_only_named(name):
    assert plain(Hit("a", **{name: "hush"})) == plain(Hit("b", **{name: "hush"}))
    assert "hush" not in str(plain(Hit("a", of=Hit("b", **{name: "hush"}))))


def test_objects_that_hold_each_other_are_only_named_and_quickly():
    top = Hit("top")
    top.parts = [Hit(str(i), of=top, beside=[]) for i in range(30)]
    for part in top.parts:
        part.beside = top.parts

    assert plain(top).endswith("Hit object, not recorded>")
    assert timeit.timeit(lambda: plain([top] * 20), number=1) < 1


def test_what_reading_would_use_up_is_not_read():
    file = io.BytesIO(b"abc")
    numbers = iter([1, 2])

    assert plain([file, numbers]) == ["<_io.BytesIO object, not read>", "<list_iterator object, not read>"]
    assert plain(Hit("a", file=file)).endswith("Hit object, not read>")
    assert (file.read(), next(numbers)) == (b"abc", 1)


def test_an_answer_of_a_server_is_told_by_its_status_and_its_text_if_that_was_read():
    assert plain(httpx.Response(200, text="a page")) == {"status_code": 200, "text": "a page"}
    assert plain(Answer(b"a page")) == {"status_code": 200, "text": "a page"}
    assert plain(Answer(body=False)) == {"status_code": 200, "text": "<Answer [200], not read>"}


def test_a_repr_that_leaves_something_out_says_so():
    class Job(Hit):
        def __repr__(self):
            return f"Job({self.id})"

    class Long:
        def __repr__(self):
            return f"Long({'x' * 5_000})"

    class Elided:
        def __repr__(self):
            return "array([0, 1, ..., 8, 9])"

    assert plain(Job("running", id=1)) == "Job(1) <the rest, not recorded>"
    assert plain(Long()).endswith("xxx <the rest, not read>")
    assert plain(Elided()).endswith("<the rest, not read>")


def test_an_address_is_never_told():
    told = str(plain([object(), print, lambda: 1, Hit, deque([object()]), Hit("a", by=threading.Lock())]))

    assert "0x" not in told


def nested(depth, value):
    for _ in range(depth):
        value = [value]
    return value


def test_what_lies_too_deep_is_told_apart():
    assert "<too deep, " in str(plain(nested(100, "a")))
    assert plain(nested(100, "a")) == plain(nested(100, "a")) != plain(nested(100, "b"))
    assert "<too deep, not read>" in str(plain(nested(100_000, "a")))
    assert "<too deep, not read>" in str(plain(nested(100, object())))
