"""How semantic IDs are learned from item vectors."""

from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.rq_kmeans import RQKMeans

__all__ = ["NotFittedError", "RQKMeans"]
