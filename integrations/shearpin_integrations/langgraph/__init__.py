"""LangGraph: the LangChain handler, guarded nodes, and middleware for `create_agent`.

graph.invoke(state, config={"callbacks": [ShearpinCallbackHandler(pin)]})
"""

from typing import TYPE_CHECKING, Any

from langgraph.errors import GraphBubbleUp

from shearpin.adapter import register_pass_through
from shearpin_integrations.langchain import ShearpinCallbackHandler
from shearpin_integrations.langgraph.nodes import guarded_node, hook_nodes

if TYPE_CHECKING:
    from shearpin_integrations.langgraph.middleware import ShearpinMiddleware

register_pass_through(GraphBubbleUp)

__all__ = ["ShearpinCallbackHandler", "ShearpinMiddleware", "guarded_node", "hook_nodes"]


def __getattr__(name: str) -> Any:
    """`ShearpinMiddleware` needs the langchain package, which a LangGraph user may not have."""
    if name == "ShearpinMiddleware":
        from shearpin_integrations.langgraph.middleware import ShearpinMiddleware

        return ShearpinMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
