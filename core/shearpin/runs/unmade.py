"""Tool calls that were answered without being made: by a person, or by the agent loop itself."""

from __future__ import annotations

from shearpin.errors import LoopDetectedError
from shearpin.runs.refusing import Refusal, bug_in
from shearpin.runs.tree import Tree
from shearpin.trace import Span
from shearpin.trace.spans import SpanStatus


def unmade(tree: Tree, span: Span, output: object, status: SpanStatus) -> None:
    """Note the answer to the call `span`, which nobody made and no budget pays; raises the stop of a loop."""
    span.stored_output, span.status = tree.trace.pool.value(output), status
    with tree.lock:
        tree.steps.propose(span)
        tree.steps.start_tool(span)
        span.start_ns = span.end_ns = tree.journal.clock.now_ns()
        for rule, watch in tree.watches:
            try:
                error = watch.check(span)
                watch.recall(span)
            except Exception as bug:  # noqa: BLE001 - the rule lost count: nothing more may start
                raise tree.stop_now(rule.name, bug_in(rule, bug), span) from None
            if isinstance(error, LoopDetectedError):
                if tree.settings.enforce:
                    raise tree.stop_now(rule.name, error, span)
                Refusal(rule, error, watch).record(tree.journal, span, observed=True)
