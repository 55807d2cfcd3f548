"""Slow, obvious definitions of what labels drawn from known probabilities give on average."""

import itertools


def expected_auc(probabilities, scores, weights=None):
    """Mean number of pairs in the right order over the mean number of pairs, row pair by pair."""
    weights = [1.0] * len(scores) if weights is None else weights
    won = total = 0.0
    for i, j in itertools.permutations(range(len(scores)), 2):
        pair = weights[i] * weights[j] * probabilities[i] * (1 - probabilities[j])
        total += pair
        won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / total


def expected_pairs(probabilities, scores):
    """The two means by going through every possible set of labels."""
    won = total = 0.0
    for labels in itertools.product([0, 1], repeat=len(scores)):
        chance = 1.0
        for label, probability in zip(labels, probabilities, strict=True):
            chance *= probability if label else 1 - probability
        for i, j in itertools.permutations(range(len(scores)), 2):
            if labels[i] == 1 and labels[j] == 0:
                total += chance
                tie = 0.5 * (scores[i] == scores[j])
                won += chance * ((scores[i] > scores[j]) + tie)
    return won, total
