"""The contrastive losses as loops over rows; imports nothing of ours."""

import math

from tests.reference import cosine


def info_nce_row(cosines, own, excluded, temperature, log_q):
    """Negative log probability of the own candidate among those that are not excluded."""
    logits = [c / temperature - q for c, q in zip(cosines, log_q, strict=True)]
    mass = math.fsum(
        math.exp(logit) for j, logit in enumerate(logits) if j == own or j not in excluded
    )
    return math.log(mass) - logits[own]


def many_positives(vectors, positives, temperature):
    """Mean over rows with a positive of the mean over its positives; ``positives`` are sets."""
    losses = []
    for i, wanted in enumerate(positives):
        others = [j for j in range(len(vectors)) if j != i]
        logits = {j: cosine(vectors[i], vectors[j]) / temperature for j in others}
        mass = math.fsum(math.exp(logit) for logit in logits.values())
        chances = [math.log(math.exp(logits[p]) / mass) for p in wanted if p != i]
        if chances:
            losses.append(-math.fsum(chances) / len(chances))
    return math.fsum(losses) / len(losses) if losses else 0.0
