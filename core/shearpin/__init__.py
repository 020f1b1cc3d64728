"""Shearpin stops an LLM agent that runs away, before its next call, and leaves a trace of why.

from shearpin import Budget, Guard, LoopBreaker

pin = Guard(Budget(usd=0.50, steps=25), LoopBreaker())
"""

from shearpin.attachment import attach, install
from shearpin.errors import (
    ApprovalRejectedError,
    BudgetExceededError,
    EnforcementGapWarning,
    LoopDetectedError,
    MissingIntegrationError,
    RunStoppedError,
    ShearpinError,
    ToolDeniedError,
    TraceFormatError,
)
from shearpin.guards import Guard, current_run, guard
from shearpin.rules.budget import Budget
from shearpin.rules.loop import LoopBreaker
from shearpin.rules.policy import ToolPolicy
from shearpin.trace import Span, Trace, Usage

__version__ = "0.1.0"

__all__ = [
    "ApprovalRejectedError",
    "Budget",
    "BudgetExceededError",
    "EnforcementGapWarning",
    "Guard",
    "LoopBreaker",
    "LoopDetectedError",
    "MissingIntegrationError",
    "RunStoppedError",
    "ShearpinError",
    "Span",
    "ToolDeniedError",
    "ToolPolicy",
    "Trace",
    "TraceFormatError",
    "Usage",
    "attach",
    "current_run",
    "guard",
    "install",
]
