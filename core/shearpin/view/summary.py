"""What stands above and below the tree: who ran and what it took; why it stopped or failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shearpin.errors import dollars
from shearpin.trace import DecisionSpan, Span, Trace, Usage
from shearpin.trace.spans import by_id
from shearpin.view.figures import count, duration, gist, is_mapping, money, plural, whole
from shearpin.view.rows import refused_call, why
from shearpin.view.text import Line, Page, clean, wrap

STATUS = {
    "ok": ("✓ ok", "bold green"),
    "error": ("✗ failed", "bold red"),
    "stopped": (" ✋ STOPPED ", "alarm"),
    "paused": ("paused", "bold yellow"),
    "cancelled": ("cancelled", "bold yellow"),
    "unfinished": ("◌ unfinished", "bold yellow"),
}
_INDENT = "  "
_LABEL = 9
_MOST_LINES, _MOST_TAGS, _MOST_NAMES, _MOST_OBSERVED, _MOST_GAPS = 8, 10, 6, 3, 10


def header(trace: Trace, page: Page) -> Iterator[Line]:
    """The run's name and fate, its totals, whose it was, what was asked and answered."""
    symbol, style = STATUS.get(trace.status, (trace.status, "bold"))
    yield page.line().add(symbol, style).add("  ").add(trace.name, "bold")
    yield from _flow(_totals(trace), page)
    yield from _flow(_identity(trace), page, "dim")
    for label, value in (("asked", trace.input), ("answered", trace.output)):
        if value is not None:
            yield page.line().add(f"{_INDENT}{label:<{_LABEL}}", "dim").add(gist(value))


def _totals(trace: Trace) -> Iterator[str]:
    ended = trace.ended_ns
    yield money(trace.usage.cost_usd)
    yield "no end" if ended is None else duration(ended - trace.started_ns)
    yield plural(trace.steps, "step")
    yield plural(trace.llm_calls, "model call")
    yield plural(trace.tool_calls, "tool call")
    yield _tokens(trace.usage)


def _tokens(usage: Usage) -> str:
    cached = f" ({count(usage.cached_input_tokens)} cached)" if usage.cached_input_tokens else ""
    return f"{count(usage.input_tokens)} tokens in{cached} → {count(usage.output_tokens)} out"


def _identity(trace: Trace) -> Iterator[str]:
    yield f"trace {trace.trace_id}"
    named = {"session": trace.session_id, "user": trace.user_id, "tenant": trace.tenant, "team": trace.team}
    named |= {"task": trace.task_type, "version": trace.version, "env": trace.env}
    yield from (f"{name} {value}" for name, value in named.items() if value)
    yield from (f"#{tag}" for tag in trace.tags[:_MOST_TAGS])


def _flow(items: Iterable[str], page: Page, style: str = "") -> Iterator[Line]:
    """Items side by side, on as many lines as it takes."""
    line = page.line().add(_INDENT)
    for item in items:
        piece = page.line().add(item, style)
        if line.width > len(_INDENT) and line.width + 3 + piece.width > page.width:
            yield line
            line = page.line().add(_INDENT)
        if line.width > len(_INDENT):
            line.add(" · ", "dim")
        line.extend(piece)
    yield line


def footer(trace: Trace, page: Page) -> Iterator[Line]:
    """Why the run did not simply end, as far as the trace knows; what was neither enforced nor recorded."""
    decision = _stopping_decision(trace)
    if trace.status == "stopped" or trace.stop is not None or decision is not None:
        rule = trace.stop.rule if trace.stop else decision.rule if decision else "a rule"
        yield from _box(f" ✋ STOPPED by {rule} ", "alarm", "red", _stopped(trace, decision), page)
    elif trace.status == "error":
        yield from _box("✗ FAILED", "bold red", "red", _failed(trace), page)
    elif trace.status == "unfinished":
        yield from _box("◌ UNFINISHED", "bold yellow", "yellow", _unfinished(trace), page)
    for seen in [item for item in trace.decisions if item.facts.get("observed")][:_MOST_OBSERVED]:
        title = f"✋ {seen.rule} only observes: enforced, it would have stopped here"
        yield from _box(title, "bold yellow", "yellow", _would_have_stopped(trace, seen), page)
    if trace.gaps:
        gaps = [("gap", gap) for gap in trace.gaps[:_MOST_GAPS]]
        more = len(trace.gaps) - len(gaps)
        gaps += [("", f"… {plural(more, 'more gap')}")] if more else []
        yield from _box("⚠ NOT COVERED", "bold yellow", "yellow", gaps, page)


def _stopped(trace: Trace, decision: DecisionSpan | None) -> Iterator[tuple[str, str]]:
    yield "why", why(str(trace.stop.error) if trace.stop else decision.reason if decision else "")
    if decision is not None:
        yield "refused", f"{refused_call(decision)}{_which(trace, decision)}"
        yield "where", _where(trace, decision)
    yield "spent", _spent(trace)


def _which(trace: Trace, decision: DecisionSpan) -> str:
    """Which call of the run the refused one would have been: nothing was admitted after it."""
    call = decision.input
    kind = call.get("kind") if is_mapping(call) and trace.status == "stopped" else None
    admitted = {"llm": ("model call", trace.llm_calls), "tool": ("tool call", trace.tool_calls)}.get(str(kind))
    return f", which would have been {admitted[0]} {whole(admitted[1] + 1)}" if admitted else ""


def _spent(trace: Trace) -> str:
    calls = f"{plural(trace.llm_calls, 'model call')} · {plural(trace.tool_calls, 'tool call')}"
    cost = trace.usage.cost_usd
    spent = money(cost) if cost is None else dollars(cost)  # to the digit, as the reason has it
    return f"{spent} · {calls} · {_tokens(trace.usage)}"


def _would_have_stopped(trace: Trace, decision: DecisionSpan) -> Iterator[tuple[str, str]]:
    yield "why", why(decision.reason)
    yield "before", refused_call(decision)
    yield "where", _where(trace, decision)


def _stopping_decision(trace: Trace) -> DecisionSpan | None:
    stops = [item for item in trace.decisions if item.verdict == "stop" and not item.facts.get("observed")]
    named = [decision for decision in stops if trace.stop and decision.span_id == trace.stop.span_id]
    return next(iter(named or stops), None)


def _unfinished(trace: Trace) -> Iterator[tuple[str, str]]:
    yield "why", "its end was never recorded: it is still running, or its process was killed"
    going = [span for span in trace.spans if span.end_ns is None]
    if going:
        yield "where", _where(trace, max(reversed(going), key=lambda span: span.start_ns))
    yield "spent", _spent(trace)


def _failed(trace: Trace) -> Iterator[tuple[str, str]]:
    failures = [span for span in trace.spans if span.error is not None]
    if failures:
        final = next((span.error for span in failures if span.parent_id is None), failures[-1].error)
        source = [span for span in failures if span.error == final][-1]  # the deepest that had it began last
        yield "why", f"{final.type}: {final.message}" if final else ""
        yield "where", _where(trace, source)
    yield "spent", _spent(trace)


def _where(trace: Trace, span: Span) -> str:
    """The way down to `span`, and its step."""
    spans = by_id(trace.spans)
    path: dict[str, str] = {}
    here: Span | None = span
    while here is not None and here.span_id not in path:
        path[here.span_id] = here.name
        here = spans.get(here.parent_id or "")
    names = list(path.values())[::-1]
    if isinstance(span, DecisionSpan):
        names.pop()
    if len(names) > _MOST_NAMES:
        names = [*names[:2], "…", *names[-3:]]
    step = [f"step {span.step}"] if span.step and f"step {span.step}" not in names else []
    return " · ".join([" / ".join(names), *step] if names else step)


def _box(title: str, style: str, bar: str, facts: Iterable[tuple[str, str]], page: Page) -> Iterator[Line]:
    """A title and facts beside a bar, each a label and a text that is wrapped."""
    yield page.line()
    yield page.line().add("┃ ", f"bold {bar}").add(title, style)
    for label, text in facts:
        for number, part in enumerate(_wrapped(text, page) if text else ()):
            head = label if number == 0 else ""
            yield page.line().add("┃ ", f"bold {bar}").add(f"{head:<{_LABEL}}", "dim").add(part)


def _wrapped(text: str, page: Page) -> list[str]:
    lines = wrap(clean(text, ascii_only=page.ascii_only), page.width - _LABEL - 2)
    return [*lines[: _MOST_LINES - 1], "…"] if len(lines) > _MOST_LINES else lines
