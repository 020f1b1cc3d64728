"""Exporters of Shearpin: where spans and finished runs go, one module a destination."""

__all__: list[str] = []
