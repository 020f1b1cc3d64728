"""LangChain: a callback handler for chains, models, tools and retrievers.

chain.invoke(question, config={"callbacks": [ShearpinCallbackHandler(pin)]})
"""

from shearpin.adapter import require as _require

_require("langchain-core", "1.2.11")

from shearpin_integrations.langchain.handler import ShearpinCallbackHandler  # noqa: E402

__all__ = ["ShearpinCallbackHandler"]
