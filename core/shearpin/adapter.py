"""The seam for adapters of frameworks and for exporters: ours and everyone else's.

An adapter translates a framework's events into a `Run`: ``run.open()``, then for every action ``span = run.start(kind,
name, parent=...)``, and ``run.end(span, ...)`` or ``run.fail(span, error)``, at last ``run.close()``. It decides
nothing, prices nothing and stores nothing. `start` raises the stop; the adapter lets it through, the framework's own
way: `register_pass_through` gives every stop the base class that the framework hands to its caller untouched.
"""

from shearpin.errors import ToldError, register_pass_through
from shearpin.importing import require
from shearpin.rules.approval import ApprovalRequest
from shearpin.runs.run import Run
from shearpin.runs.steps import HOOK
from shearpin.runs.trouble import raise_if_meant
from shearpin.trace.ambient import Place, announce, place_of, register_locator
from shearpin.trace.exporting import Exporter
from shearpin.trace.lines import TraceLines
from shearpin.trace.plain import is_dict, is_list, plain, register_plain
from shearpin.trace.providers import parse_arguments, read_reply
from shearpin.trace.reply import Reply
from shearpin.trace.usage import read_usage

__all__ = [
    "HOOK",
    "ApprovalRequest",
    "Exporter",
    "Place",
    "Reply",
    "Run",
    "ToldError",
    "TraceLines",
    "announce",
    "is_dict",
    "is_list",
    "parse_arguments",
    "place_of",
    "plain",
    "raise_if_meant",
    "read_reply",
    "read_usage",
    "register_locator",
    "register_pass_through",
    "register_plain",
    "require",
]
