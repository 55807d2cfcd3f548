"""Rankers that are exported, requests for them, and what they must answer."""

import json

import torch

from sidrank.models import TokenFormer
from sidrank.sequences.bfts import BFTSEncoder
from sidrank.serving.manifest import MANIFEST, write_manifest
from tests.embeddings import hosts
from tests.models import rankers, situation_models, token_formers
from tests.serving import test_candidate_scorer as scored

# sizes that tracing treats apart, and requests without candidates
COUNTS = ([1], [5], [2, 2], [0, 1], [1, 0, 0], [9, 9, 9, 1], [40, 1, 40])


def ranker(name):
    """A trained ranker, small enough to be traced in seconds, and what its self-test asks."""
    if name == "sid_ranker":
        model = rankers.trained(branch=None)
    elif name == "token_former":
        torch.manual_seed(1)
        model = TokenFormer(
            token_formers.fields(),
            token_formers.behaviours(),
            encoder=BFTSEncoder(dim=8, num_heads=2, hidden=12, windows=(3,)),
            dense_in_features=token_formers.DENSE,
        )
        token_formers.train(model, torch.optim.Adagrad(model.parameters(), lr=0.2), steps=3)
    else:
        model = scored.RANKERS[name]()[0]
    return model.eval(), requests(name, scored.COUNTS, seed=0)


def requests(name, counts, seed=3):
    """Others: with ids no SID table knows, empty bags, and as many candidates as wanted."""
    size = max(sum(counts), len(counts))
    if name == "token_former":
        dense, sparse, _ = token_formers.batch(size=size, seed=seed)
        return scored.asked(sparse, dense, {"item", "kind"}, counts)
    if name == "situation_ctr":
        sparse, _ = situation_models.batch(size=size, seed=seed)
        return scored.asked(sparse, torch.zeros(len(counts), 0), {"item"}, counts)
    dense, sparse, _ = hosts.batch(size=size, seed=seed)
    own = {key for key in sparse.keys() if not key.startswith(("user", "history"))}  # noqa: SIM118
    return scored.asked(sparse, dense, own, counts)


def signed_anew(folder, **changed):
    """Make the manifest fit whatever was done to the folder, as no accident would."""
    told = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).unlink()
    for name in ("format", "files", "checksum"):
        told.pop(name)
    write_manifest(folder, told | changed)
