"""LangGraph: the LangChain handler, guarded nodes, and middleware for `create_agent`.

graph.invoke(state, config={"callbacks": [ShearpinCallbackHandler(pin)]})
"""

from typing import TYPE_CHECKING, Any

from shearpin.adapter import register_pass_through
from shearpin.adapter import require as _require

_require("langgraph", "1.1.5")

from langgraph.errors import GraphBubbleUp  # noqa: E402

from shearpin_integrations.langchain import ShearpinCallbackHandler  # noqa: E402
from shearpin_integrations.langgraph.nodes import guarded_node, hook_nodes  # noqa: E402

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
