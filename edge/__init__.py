"""A live-comment and score-update server. What runs is in `edge.cli`; the layers are in docs/architecture.md."""

__version__ = "0.1.0"
