"""How semantic IDs are learned from item vectors.

Every tokenizer has one interface, :class:`Tokenizer`: ``fit``, ``encode``, ``decode``,
``state_dict``, ``load_state_dict``.
"""

from sidrank.tokenizers._autoencoder import Network
from sidrank.tokenizers._epochs import Training
from sidrank.tokenizers._r3_vae_step import R3VAELosses, R3VAERating
from sidrank.tokenizers._residual_codebooks import RQVAECodebook
from sidrank.tokenizers._rq_vae_step import RQVAELosses
from sidrank.tokenizers.capacity_rq import CapacityConstrainedRQ
from sidrank.tokenizers.errors import NotFittedError
from sidrank.tokenizers.fsq import FSQTail
from sidrank.tokenizers.fused_vectors import FusionLosses, embed_views, fit_fusion
from sidrank.tokenizers.multimodal_fusion import MultimodalFusion, concatenated_views
from sidrank.tokenizers.parallel_sid_head import (
    ParallelSIDHead,
    SummaryEmbeddingReconstruction,
    UniSIDWeights,
    nested_categories,
    sid_loss,
)
from sidrank.tokenizers.protocol import Progress, Tokenizer
from sidrank.tokenizers.r3_vae import R3VAE
from sidrank.tokenizers.res_kmeans_fsq import ResKMeansFSQ
from sidrank.tokenizers.rotation import learned_rotation
from sidrank.tokenizers.rq_kmeans import RQKMeans
from sidrank.tokenizers.rq_vae import RQVAE
from sidrank.tokenizers.uni_sid import UniSID

__all__ = [
    "R3VAE",
    "RQVAE",
    "CapacityConstrainedRQ",
    "FSQTail",
    "FusionLosses",
    "MultimodalFusion",
    "Network",
    "NotFittedError",
    "ParallelSIDHead",
    "Progress",
    "R3VAELosses",
    "R3VAERating",
    "RQKMeans",
    "RQVAECodebook",
    "RQVAELosses",
    "ResKMeansFSQ",
    "SummaryEmbeddingReconstruction",
    "Tokenizer",
    "Training",
    "UniSID",
    "UniSIDWeights",
    "concatenated_views",
    "embed_views",
    "fit_fusion",
    "learned_rotation",
    "nested_categories",
    "sid_loss",
]
