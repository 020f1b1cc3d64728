"""How a person sees a trace: as a tree in the terminal."""

__all__: list[str] = []
