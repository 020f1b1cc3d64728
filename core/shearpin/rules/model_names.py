"""The names one model goes by: with a provider's prefix or without, with a date or without. Nothing looser."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORDS = {
    "amazon": "aws",
    "amazonbedrock": "aws",
    "anthropicbedrock": "aws",
    "awsbedrock": "aws",
    "bedrock": "aws",
    "bedrockconverse": "aws",
    "anthropicvertex": "google",
    "azureai": "azure",
    "azureaiinference": "azure",
    "azureaiopenai": "azure",
    "azureopenai": "azure",
    "chatgpt": "openai",
    "claude": "anthropic",
    "fireworksai": "fireworks",
    "gcpgemini": "google",
    "gcpgenai": "google",
    "gcpvertexai": "google",
    "gemini": "google",
    "googleanthropicvertex": "google",
    "googlegenai": "google",
    "googlegenerativeai": "google",
    "googlevertexai": "google",
    "vertexai": "google",
    "grok": "x-ai",
    "xai": "x-ai",
    "metallama": "meta",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "togetherai": "together",
    "anthropic": "anthropic",
    "aws": "aws",
    "azure": "azure",
    "baseten": "baseten",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare",
    "cohere": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "githubcopilot": "github-copilot",
    "google": "google",
    "groq": "groq",
    "meta": "meta",
    "minimax": "minimax",
    "mistral": "mistral",
    "moonshotai": "moonshotai",
    "novita": "novita",
    "openai": "openai",
    "openrouter": "openrouter",
    "ovhcloud": "ovhcloud",
    "perplexity": "perplexity",
    "together": "together",
    "voyageai": "voyageai",
    "zai": "zai",
    "zhipuai": "zhipuai",
}
"""Providers in the words of LangChain, LiteLLM, OpenTelemetry and their own, without signs, by their id in the table."""

_DATE = re.compile(r"[-@]20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])(?=(?:-v\d+(?::\d+)?)?$)")
"""``-2024-08-06``, ``-20250929``, ``@20250929``; also before the version that ends a Bedrock id (``-v1:0``)."""

_ADDRESS = re.compile(r"^arn:aws[^/]*:(?:foundation-model|inference-profile)/|^(?:publishers/[^/]+/)?models/")
"""How Bedrock, Google AI and Vertex AI write the address of one of their models; a tuned model's is another."""

_REGION = re.compile(r"^(?:us-gov|us|eu|apac|ap|jp|au|ca|in)\.(?=[a-z]+\.[a-z])")
"""Bedrock: the inference profile of a region. ``global.`` is one with a price of its own, and so a name."""

_VENDOR = re.compile(r"^(?!global\.|regional\.)[a-z]+\.[a-z]")
"""Bedrock: ``anthropic.claude-…``. The table lists what costs more in one region than globally as ``regional.``."""

_PREFIX = re.compile(r"([^/:]+)[/:](.+)", re.DOTALL)
_MOST_PREFIXES = 3


def provider_id(word: str | None) -> str | None:
    """The id the price table has for a provider, or None.

    >>> provider_id("azure.ai.openai"), provider_id("google_vertexai"), provider_id("my-proxy")
    ('azure', 'google', None)
    """
    return _WORDS.get(re.sub(r"[^a-z0-9]", "", word.lower())) if word else None


def spellings(model: str, provider: str | None) -> Iterator[tuple[str | None, str]]:
    """Every name that is the same model, the fullest first, each with the provider it names or else `provider`.

    >>> [name for _, name in spellings("openai/gpt-4o-2024-08-06", None)]
    ['openai/gpt-4o-2024-08-06', 'openai/gpt-4o', 'gpt-4o-2024-08-06', 'gpt-4o']
    """
    for host, name in _without_prefix(_ADDRESS.sub("", model.strip().lower()), provider_id(provider)):
        for spelling in _regional(name):
            yield host, spelling
            undated = _DATE.sub("", spelling)
            if undated != spelling:
                yield host, undated


def _without_prefix(name: str, host: str | None) -> Iterator[tuple[str | None, str]]:
    """`name`, then without its first prefix if that is a provider, and so on: ``openrouter/openai/gpt-4o``."""
    yield host, name
    for _ in range(_MOST_PREFIXES):
        split = _PREFIX.fullmatch(name)
        named = provider_id(split[1]) if split else None
        if split is None or named is None:
            return
        host, name = named, _ADDRESS.sub("", split[2])
        yield host, name


def _regional(name: str) -> Iterator[str]:
    yield name
    anywhere = _REGION.sub("", name)
    if _VENDOR.match(anywhere):
        yield f"regional.{anywhere}"
    if anywhere != name:
        yield anywhere
