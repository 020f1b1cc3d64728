"""Adapters of agent frameworks, one package each; importing one needs its framework installed."""

__all__: list[str] = []
