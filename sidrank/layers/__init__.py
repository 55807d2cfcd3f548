"""Dense blocks that several rooms share: gates and fusion of embeddings. Torch only."""

from sidrank.layers.gates import ConvexGate, ResidualGate
from sidrank.layers.resolution_attention import ResolutionAttention

__all__ = ["ConvexGate", "ResidualGate", "ResolutionAttention"]
