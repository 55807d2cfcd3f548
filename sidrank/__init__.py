"""Semantic IDs and their measured gains for rankers that already run on TorchRec.

Nothing is imported here: the import path says what a thing needs. `sidrank.data`,
`sidrank.layers`, `sidrank.metrics`, `sidrank.semantic_ids` and `sidrank.tokenizers` need torch
alone; `sidrank.embeddings`, `sidrank.sharding` and `sidrank.demo` need TorchRec.
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("sidrank")
