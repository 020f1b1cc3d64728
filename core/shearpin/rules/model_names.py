"""The names one model goes by: with a provider's prefix or without, with a date or without. Nothing looser."""

from __future__ import annotations

import re
from collections.abc import Iterator

_IDS = """
    anthropic arcee avian aws azure baseten cerebras cloudflare cohere cursor databricks deepseek doubleword
    elevenlabs fireworks github-copilot google groq huggingface_cerebras huggingface_fireworks-ai
    huggingface_groq huggingface_hyperbolic huggingface_nebius huggingface_novita huggingface_nscale
    huggingface_ovhcloud huggingface_publicai huggingface_sambanova huggingface_together meta minimax mistral
    modal moonshotai novita openai openrouter ovhcloud perplexity quicksilverpro together typesafe voyageai x-ai
    zai zhipuai
"""
"""The price table's ids of providers."""

_SYNONYMS = {
    "amazon": "aws",
    "amazonbedrock": "aws",
    "anthropicbedrock": "aws",
    "awsbedrock": "aws",
    "bedrock": "aws",
    "bedrockconverse": "aws",
    "azureai": "azure",
    "azureaiinference": "azure",
    "azureaiopenai": "azure",
    "azureopenai": "azure",
    "anthropicvertex": "google",
    "gcpgemini": "google",
    "gcpgenai": "google",
    "gcpvertexai": "google",
    "gemini": "google",
    "googleanthropicvertex": "google",
    "googlegenai": "google",
    "googlegenerativeai": "google",
    "googlevertexai": "google",
    "vertexai": "google",
    "fireworksai": "fireworks",
    "metallama": "meta",
    "mistralai": "mistral",
    "moonshot": "moonshotai",
    "togetherai": "together",
}
"""What LangChain, LiteLLM, OpenTelemetry and the providers themselves call them, letters and digits alone."""


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


_WORDS = {_plain(known): known for known in _IDS.split()} | _SYNONYMS

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
    return _WORDS.get(_plain(word)) if word else None


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
