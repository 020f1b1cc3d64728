"""What came back from a call: how much it tells, and a digest without what varies for no reason.

A request id, a clock or the number of a retry makes no new answer. Progress does, so numbers are left out only where
a word beside them says that they are such a thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum

from shearpin.rules.canonical import Call, text_of
from shearpin.rules.manners import words
from shearpin.trace import LLMSpan
from shearpin.trace.objects import HIDDEN, UNREAD

_SHORT = 200
"""Characters up to which an answer is short, and in which a longer one shows whether it is a failure."""
_READ = 4_000
"""Characters of an answer that are read; what follows is compared as it stands."""
_LABEL = 24
"""Characters before a clock in which its label stands."""


class Tells(IntEnum):
    """How much an answer says about what was asked."""

    NOTHING = 0
    """An acknowledgement: ``ok``, ``saved``, nothing at all."""
    ANSWER = 1
    """A short answer: two different questions may well share it."""
    LONG = 2
    """A long answer: two different questions hardly share it."""
    EMPTY = 3
    """Nothing was found."""
    MISSING = 4
    """It failed, since there is no such thing as was asked for; the next thing may be there."""
    ERROR = 5
    """It failed."""


@dataclass(slots=True)
class Answer:
    """What came back; `echoless` leaves out the words of the call too: "no x" is to x what "no y" is to y."""

    tells: Tells
    digest: int
    echoless: int

    def same(self, other: Answer, *, echo: bool) -> bool:
        """Do they say the same, with their echo of the call or without?"""
        return self.digest == other.digest or (not echo and self.echoless == other.echoless)


_ERROR = frozenset(
    words(
        "err errno traceback fail fails failed failing failure failures denied forbidden unauthorized unauthorised "
        "invalid unknown unavailable timeout timed refused reject rejected conflict exceeded unsupported cannot "
        "unable permitted allowed crashed aborted"
    )
)
_EMPTY = frozenset(words("no not none nothing null nil empty missing without zero didn doesn don wasn weren couldn"))
_STATUS = re.compile(r"\b(?:http|status|code)\W{1,4}([45]\d\d)\b|\bexit\w*(?: with)?(?: code| status)?\W{1,3}([1-9])")
"""A number alone is what was asked for, be it 404."""
_STATUS_WORDS = frozenset(words("http status code exit exits exited exiting exitcode exitstatus"))
_NO_TOOL = frozenset(words("tool function command"))
_NO_SUCH = _NO_TOOL | {"valid"}
_ABSENT = re.compile(
    r"not ?found|\bno ?such|(not|n't) exist|\bnot known|\b(404|410|enoent|nxdomain)\b|"
    r"(key|lookup|index)error|getaddrinfo|name resolution|"
    r"\bunknown (?!error|exception|failure|reason|argument|parameter|option|flag|field)"
)
_NO_SEARCH = frozenset(words("such exist 404"))
_NO_HITS = re.compile(r"\b0 [a-z]|\b(total|count|hits|results|found|matches|size|length)\W{1,4}0\b")
_FINE = re.compile(
    r"\b(no|0|zero|without|any) (\w+ )?(errors?|issues?|problems?|warnings?|conflicts?|failures?|failed|threats?|"
    r"violations?|vulnerabilities|differences|changes|duplicates)\b|"
    r"\b(errors?|failures?|failed|warnings?)\W{1,4}(null|none|false|0|\[\]|\"\")"
)
_VOID = frozenset(["None", "null", "undefined"])
"""What a framework writes for a tool that returns nothing; "none" is a word."""
_SILENT = re.compile(r"\b(no|without|empty) output\b")
_DONE = frozenset(
    words(
        "ok okay done true success successful successfully succeeded saved stored written wrote created updated "
        "inserted appended added deleted removed sent queued accepted submitted recorded logged noted indexed "
        "uploaded published posted scheduled complete completed finished processed applied moved clicked pressed "
        "typed scrolled selected filled opened navigated enabled disabled changed replaced edited copied executed "
        "transferred acknowledged ack exit exited waited slept paused elapsed taken thanks 200 201 202 204"
    )
)
_CLOCK = re.compile(
    r"\b\d{4}-\d\d-\d\d[t ]\d\d:\d\d(:\d\d)?([.,]\d+)?(z|[+-]\d\d:?\d\d)?|\b1[5-9]\d{8}(\d{3}){0,3}(\.\d+)?\b"
)
_READING = re.compile(
    r"(^|\b(timestamp|ts|time|now|as[_ ]of|(check|updat|fetch|generat|retriev|quer|poll|observ|respond|server)\w*"
    r"[_ ](at|on|time)))\W*$"
)
_TIME_TALK = frozenset(
    words("a as at current date datetime in is it iso local ms now of s sec seconds secs server the time timestamp")
    + words("today ts utc")
)
_LASTED = r"\b\d+\.\d+ ?(s|ms|secs?|seconds)\b"
"""A time with a fraction was measured; a countdown has none."""
_TRACKING = re.compile(
    r"\b(request|req|trace|span|correlation)[ _-]?id\W+[\w-]+|"
    rf"\b(took|latency|(response|query)[ _]time)(_\w+)?\W+[\d.]+|{_LASTED}"
)
_TRACKED = ("req", "trace", "span", "correlation")
_day = re.compile(r"-\d\d[t ]\d\d:").search
_epoch = re.compile(r"1[5-9]\d{8}").search
_measured = re.compile(r"\.\d+ ?[ms]").search
_FRESH = re.compile(
    rf"{_CLOCK.pattern}|\b\d\d:\d\d:\d\d([.,]\d+)?\b|\b[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\b|#\d+\b|"
    rf"\b\d+ times\b|{_LASTED}"
)
_RANDOM = re.compile(r"(?=\d*[a-f])[0-9a-f]{8,}|0x[0-9a-f]+|\d{12,}")
_AT = " at 0x"
_address = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>").search
"""An object that a framework has made a text: Python gives its address to the next one."""
_COUNTED = frozenset(
    words(
        "attempt attempts retry retries try tries request req trace span correlation transaction session "
        "connection conn incident reference ref nonce event call invocation iteration counter seq sequence pid "
        "port thread worker id after took elapsed duration latency"
    )
)
_COUNT = frozenset(words("id no nr number"))
_digit = re.compile(r"\d").search
_CUT_OFF = frozenset(["cancelled", "paused", "stopped"])
_QUIET = Answer(Tells.NOTHING, 0, 0)


_TELLING = frozenset(word.encode() for word in _ERROR | _NO_SUCH | _EMPTY | _DONE | _STATUS_WORDS | {"output", "0"})
"""The words that make an answer more than an answer, or less."""
_APART = bytes(byte if chr(byte).isalnum() else 32 for byte in range(128)) + bytes(128)


def read_answer(call: Call) -> Answer | None:
    """What came back, or None if nothing did: the call was cut off, or the model did more than talk."""
    span = call.span
    if span.status in _CUT_OFF:
        return None
    if isinstance(span, LLMSpan):
        text = "" if span.error or span.tool_calls else " ".join((span.reply or "").lower().split())
        return _plain(_length(text), text, call) if text else None
    if call.manner.quiet:
        return _QUIET
    if span.error is not None:
        return _failure(f"{span.error.type}: {span.error.message}"[:_READ].lower(), call)
    text = span.stored_output if type(span.stored_output) is str else text_of(span.output)
    if UNREAD in text or HIDDEN in text or (_AT in text and _address(text)):
        return _unlike_any(text, span.span_id)
    return _judge(text.strip(), call) if len(text) <= _READ else _judge_long(text, call)


def _unlike_any(text: str, span_id: str) -> Answer:
    """It may have held anything."""
    digest = hash((text, span_id))
    return Answer(_length(text), digest, digest)


def _judge_long(text: str, call: Call) -> Answer:
    answer, rest = _judge(text[:_READ].strip(), call), hash(text[_READ:])
    return Answer(answer.tells, hash((answer.digest, rest)), hash((answer.echoless, rest)))


def _judge(text: str, call: Call) -> Answer:
    if text in _VOID:
        return _QUIET
    text = text.lower()
    head = text[:_SHORT]
    if _merely_answers(head, call):
        return _plain(_length(text), text, call)
    short, found = len(text) <= _SHORT, words(head)
    if short and "output" in found and _SILENT.search(text):
        return _plain(Tells.NOTHING, text, call)
    failure = _failing(head, found, call)
    if failure is Tells.ERROR or (failure is Tells.EMPTY and short):
        return _failure(text, call, failure)
    return _plain(Tells.NOTHING if short and _acknowledges(found, call) else _length(text), text, call)


def _merely_answers(head: str, call: Call) -> bool:
    """Is there no sign that it tells more or less? So it is with most answers; bytes are the quickest to take apart."""
    return (
        head.isascii()
        and _TELLING.isdisjoint(found := head.encode().translate(_APART).split())
        and bool(found)
        and "error" not in head
        and "exception" not in head
        and "[]" not in head
        and "{}" not in head
        and not any(map(head.__contains__, call.manner.verbs))
    )


def _failing(head: str, found: list[str], call: Call) -> Tells | None:
    empty = _finds_nothing(head, found)
    error = "error" in head or "exception" in head or not (_ERROR | _NO_SUCH if empty else _ERROR).isdisjoint(found)
    if not error and not empty:
        return Tells.ERROR if _tells_status(head, found, call) else None
    rest = _FINE.sub("fine", head)
    if rest == head:
        return Tells.ERROR if error else Tells.EMPTY
    return _failing(rest, words(rest), call)  # "no errors" is no error: look at what else it says


def _tells_status(head: str, found: list[str], call: Call) -> bool:
    """A number that the call was made with is an echo, no status."""
    status = None if _STATUS_WORDS.isdisjoint(found) else _STATUS.search(head)
    return status is not None and (status[1] or status[2]) not in call.said


def _finds_nothing(head: str, found: list[str]) -> bool:
    if not _EMPTY.isdisjoint(found):
        return found != ["no"]  # that answers the question
    return "[]" in head or "{}" in head or ("0" in found and _NO_HITS.search(head) is not None)


def _acknowledges(found: list[str], call: Call) -> bool:
    """It says that it is done, that it did what the tool is called (`turn`: "turned"), or nothing in words."""
    return (
        not found
        or not _DONE.isdisjoint(found)
        or any(word.endswith("ed") and word.startswith(call.manner.verbs) for word in found)
    )


def _length(text: str) -> Tells:
    return Tells.ANSWER if len(text) <= _SHORT else Tells.LONG


def _failure(text: str, call: Call, tells: Tells = Tells.ERROR) -> Answer:
    """Without ids, clocks and counters, wherever they stand."""
    kept: list[str] = []
    counting = False
    for word in words(_FRESH.sub(" ", text) if _digit(text) else text):
        if word.isalpha():
            counting = word in _COUNTED or (counting and word in _COUNT)
        elif counting or _RANDOM.fullmatch(word):
            continue
        kept.append(word)
    rest = [word for word in kept if word not in call.said]
    # "not found" alone is what a search says.
    talks_of_it = tells is Tells.ERROR or len(rest) < len(kept) or not _NO_SEARCH.isdisjoint(kept)
    if talks_of_it and _ABSENT.search(text, 0, _SHORT) and _NO_TOOL.isdisjoint(kept):
        tells = Tells.MISSING
    return Answer(tells, hash(tuple(kept)), hash(tuple(rest)))


def _plain(tells: Tells, text: str, call: Call) -> Answer:
    """Without clocks and ids that say of themselves that they are such: any other date may be what was asked for."""
    manner = call.manner
    if manner.chance:
        text += call.span.span_id
    elif not manner.exact and _may_tell_readings(text):
        text = _without_readings(text)
    digest = hash(text)
    return Answer(tells, digest, digest)


def _may_tell_readings(text: str) -> bool:
    """Could `_CLOCK` or `_TRACKING` find anything? Asked of every answer, so with few and simple looks."""
    return (
        ("-" in text and _day(text) is not None)
        or _epoch(text) is not None
        or ("." in text and _measured(text) is not None)
        or ("id" in text and any(map(text.__contains__, _TRACKED)))
        or "took" in text
        or "latency" in text
        or ("time" in text and ("response" in text or "query" in text))
    )


def _without_readings(text: str) -> str:
    rest = _TRACKING.sub(" ", _CLOCK.sub(_unless_asked_for, text))
    # Where nothing else is said, the reading is the answer.
    return text if rest != text and _TIME_TALK.issuperset(words(rest)) else rest


def _unless_asked_for(found: re.Match[str]) -> str:
    label = _READING.search(found.string, max(0, found.start() - _LABEL), found.start())
    return " " if label else found[0]
