"""For tests of agents, yours and ours: a scripted provider, a clock and ids that repeat.

`ScriptedServer` is a real HTTP server on the loopback interface, so that the provider's own client, its
retries and the framework around it run as in production; what it counted is what would have been billed.
"""

from shearpin.testing.clock import FakeClock, deterministic_ids, fake_clock
from shearpin.testing.request import Request
from shearpin.testing.script import (
    Modifiers,
    Reply,
    Script,
    Tokens,
    ToolCall,
    endless,
    error,
    hang,
    per_conversation,
    reply,
    tool_call,
    tool_calls,
)
from shearpin.testing.server import ScriptedServer

__all__ = [
    "FakeClock",
    "Modifiers",
    "Reply",
    "Request",
    "Script",
    "ScriptedServer",
    "Tokens",
    "ToolCall",
    "deterministic_ids",
    "endless",
    "error",
    "fake_clock",
    "hang",
    "per_conversation",
    "reply",
    "tool_call",
    "tool_calls",
]
