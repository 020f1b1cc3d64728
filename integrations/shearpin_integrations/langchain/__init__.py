"""LangChain: a callback handler for chains, models, tools and retrievers.

chain.invoke(question, config={"callbacks": [ShearpinCallbackHandler(pin)]})
"""

from shearpin_integrations.langchain.handler import ShearpinCallbackHandler

__all__ = ["ShearpinCallbackHandler"]
