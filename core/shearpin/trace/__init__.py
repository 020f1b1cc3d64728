"""The record of a run: its model, its pool of shared bodies, its file format, and the ambient run."""

from shearpin.trace.model import Identity, Stop, Trace
from shearpin.trace.spans import DecisionSpan, LLMSpan, NodeSpan, Span, SpanError, ToolSpan
from shearpin.trace.usage import Usage

__all__ = [
    "DecisionSpan",
    "Identity",
    "LLMSpan",
    "NodeSpan",
    "Span",
    "SpanError",
    "Stop",
    "ToolSpan",
    "Trace",
    "Usage",
]
