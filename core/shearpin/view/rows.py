"""One span as one row: what it is, what went in, what came out, and the figures for the columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from shearpin.trace import DecisionSpan, LLMSpan, Span, ToolSpan, Usage
from shearpin.view.figures import brief, call_text, count, duration, gist, is_mapping, money, plural, quoted
from shearpin.view.folding import Fold
from shearpin.view.text import Line
from shearpin.view.tree import Branch


class Cells(NamedTuple):
    """The figures of a row, empty where it has none."""

    tokens_in: str = ""
    tokens_out: str = ""
    cost: str = ""
    time: str = ""


_WORDS = {"embedding": "embed", "retriever": "retrieve", "guardrail": "guard"}
_COLORS = {
    "agent": "magenta",
    "node": "cyan",
    "llm": "blue",
    "embedding": "blue",
    "tool": "green",
    "retriever": "green",
    "handoff": "yellow",
    "guardrail": "magenta",
}
_VERDICTS = {
    "stop": (" ✋ STOP ", "alarm"),
    "deny": ("✗ deny", "bold red"),
    "rejected": ("✗ rejected", "bold red"),
    "warn": ("⚠ warn", "bold yellow"),
    "nudge": ("↻ nudge", "bold yellow"),
    "ask": ("? ask", "bold cyan"),
    "approved": ("✓ approved", "green"),
    "allow": ("✓ allow", "dim"),
}
_CALLS = 20
_CUT_SHORT = ("length", "max_tokens", "content_filter", "incomplete")


NO_CELLS = Cells()


@dataclass(slots=True)
class Row:
    """``lead`` is kept whole as long as possible; ``given`` and ``came`` share what is left of the line.

    ``note`` follows on ``note_lines`` lines of its own, at most. Without ``cells`` the row may use the columns' space.
    """

    lead: Line
    given: Line
    came: Line
    note: Line
    note_lines: int = 3
    cells: Cells = NO_CELLS
    quiet: bool = False
    """The figures are sums of rows below."""


def row(item: Branch | Fold, new: Callable[[], Line]) -> Row:
    """The row of a branch or a fold; `new` makes an empty line."""
    made = Row(new(), new(), new(), new())
    if isinstance(item, Fold):
        _fold(item, made)
    elif isinstance(item.span, DecisionSpan):
        _decision(item.span, made)
    else:
        _span(item, made)
    return made


def _fold(fold: Fold, row: Row) -> None:
    row.lead.add(f"… {fold.label}", "dim")
    if fold.errors:
        row.came.add(" · ", "dim").add(plural(fold.errors, "error"), "red")
    if fold.warnings:
        row.came.add(" · ", "dim").add(plural(fold.warnings, "warning"), "yellow")
    row.cells = cells_of(fold.usage, fold.duration_ns, estimated=fold.estimated)
    row.quiet = True


def _span(branch: Branch, row: Row) -> None:
    span = branch.span
    _name(span, row)
    _state(branch, row.came if isinstance(span, ToolSpan) else row.lead)
    if isinstance(span, ToolSpan):
        _result(span, row)
    elif isinstance(span, LLMSpan):
        _reply(span, row)
    elif span.kind not in ("step", "node"):
        _in_and_out(span, row)
    elif not branch.children:
        _came(row, span.output)
    if span.error is not None and not branch.told_elsewhere:
        _error(span, row)
    row.cells = cells_of(branch.usage, span.duration_ns, estimated=branch.estimated)
    row.quiet = not isinstance(span, LLMSpan)


def _name(span: Span, row: Row) -> None:
    word = _WORDS.get(span.kind, span.kind)
    style = "red" if span.status in ("error", "stopped") else _COLORS.get(span.kind, "dim")
    if not span.name.startswith(word):  # "step 3" says it already
        row.lead.add(f"{word} ", style)
    if isinstance(span, ToolSpan):
        row.lead.add(span.name, "bold")
        row.given.add(call_text("", span.arguments)[:-1])
        row.came.add(")")  # stays when the arguments are cut
    elif isinstance(span, LLMSpan):
        row.lead.add(model_of(span))
    else:
        row.lead.add(span.name, "bold")


def model_of(span: LLMSpan) -> str:
    """What the model is called: as it was asked for, since that is what the code says."""
    return span.request_model or span.response_model or span.name


def _state(branch: Branch, line: Line) -> None:
    """What is unusual about how it went."""
    span = branch.span
    if branch.cut_off:
        line.add(" stopped", "yellow")
    if span.status in ("paused", "cancelled", "unfinished"):
        line.add(f" {span.status}", "yellow")
    if isinstance(span, ToolSpan) and span.retry:
        line.add(f" retry {span.retry}", "yellow")
    if isinstance(span, LLMSpan) and span.finish_reason in _CUT_SHORT:
        line.add(f" ⚠ {span.finish_reason}", "yellow")


def _reply(span: LLMSpan, row: Row) -> None:
    if span.kind == "embedding":
        row.given.add(" ").add(brief(span.input), "dim")
    elif span.tool_calls:
        asked = (call_text(call.get("name"), call.get("arguments")) for call in span.tool_calls[:_CALLS])
        row.came.add(" → ", "dim").add(", ".join(asked))
    elif span.reply:
        row.came.add(" → ", "dim").add(quoted(span.reply))


def _result(span: ToolSpan, row: Row) -> None:
    if span.error is None and span.status == "ok":
        row.came.add(" → ", "dim").add(brief(span.result))


def _in_and_out(span: Span, row: Row) -> None:
    if span.input is not None:
        row.given.add(" ").add(gist(span.input), "dim")
    _came(row, span.output)


def _came(row: Row, output: object) -> None:
    if output is not None:
        row.came.add(" → ", "dim").add(gist(output))


def _error(span: Span, row: Row) -> None:
    assert span.error is not None  # noqa: S101 - narrows the type
    status = f"HTTP {span.http_status} · " if isinstance(span, ToolSpan) and span.http_status else ""
    row.note.add(f"✗ {status}{span.error.type}: ", "bold red").add(span.error.message, "red")


def _decision(span: DecisionSpan, row: Row) -> None:
    badge, style = _VERDICTS.get(span.verdict, (str(span.verdict), "bold"))
    if span.verdict == "stop" and span.facts.get("observed"):
        badge, style = "✋ would stop", "bold yellow"
    row.lead.add(badge, style).add(f" {span.rule}", style if style == "dim" else "bold")
    refused, reason = refused_call(span), why(span.reason)
    if refused:
        row.came.add(" before " if span.verdict == "ask" else " refused ", "dim").add(refused)
        row.note.add(reason, "red" if span.verdict == "stop" else "")
        row.note_lines = 1  # what stops a run is told in full below the tree
    elif reason:
        row.came.add(" · ", "dim").add(reason, "dim" if style == "dim" else "")


def refused_call(span: DecisionSpan) -> str:
    """The call that was not made, as the tree would have shown it; empty where the decision refused none."""
    call = span.input
    if not is_mapping(call) or "kind" not in call:
        return ""
    kind, name, value = call["kind"], call.get("name", "?"), call.get("input")
    if kind == "tool":
        return f"tool {call_text(name, value)}"
    return f"{_WORDS.get(str(kind), kind)} {name}"


def why(reason: str) -> str:
    """The reason of a stop without saying once more that it is one."""
    return reason.removeprefix("run stopped: ")


def cells_of(usage: Usage | None, nanoseconds: int | None, *, estimated: bool) -> Cells:
    """A row's figures; an estimate says so with a tilde."""
    time = duration(nanoseconds)
    if usage is None:
        return Cells(time=time)
    about = "~" if estimated else ""
    cost = money(usage.cost_usd)
    cost = cost if usage.cost_usd is None else about + cost
    return Cells(about + count(usage.input_tokens), about + count(usage.output_tokens), cost, time)
