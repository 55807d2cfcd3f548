"""Slow definitions of DeLong's variance, the bootstrap over users and Benjamini-Hochberg."""

import math
from fractions import Fraction

from tests import reference


def won(high, low):
    """A pair in the right order counts one, a tie one half."""
    return Fraction(1 if high > low else 0) + (Fraction(1, 2) if high == low else 0)


def structural_components(labels, scores):
    """DeLong's V10 of each positive and V01 of each negative row, in one list by row."""
    positives = [score for label, score in zip(labels, scores, strict=True) if label == 1]
    negatives = [score for label, score in zip(labels, scores, strict=True) if label == 0]
    return [
        sum((won(score, other) for other in negatives), Fraction(0)) / len(negatives)
        if label == 1
        else sum((won(other, score) for other in positives), Fraction(0)) / len(positives)
        for label, score in zip(labels, scores, strict=True)
    ]


def delong(labels, treatment, control=None):
    """AUC (or difference) and its variance: S10 / P + S01 / N of the sample variances."""
    value = structural_components(labels, treatment)
    if control is not None:
        other = structural_components(labels, control)
        value = [a - b for a, b in zip(value, other, strict=True)]
    total = Fraction(0)
    for wanted in (1, 0):
        inside = [v for label, v in zip(labels, value, strict=True) if label == wanted]
        mean = sum(inside) / len(inside)
        total += sum((v - mean) ** 2 for v in inside) / (len(inside) - 1) / len(inside)
    return mean, total


def obuchowski(labels, groups, treatment, control=None):
    """AUC (or difference) and its variance with rows correlated inside groups."""
    value = structural_components(labels, treatment)
    if control is not None:
        other = structural_components(labels, control)
        value = [a - b for a, b in zip(value, other, strict=True)]
    rows = list(zip(labels, groups, value, strict=True))
    size = {y: sum(label == y for label in labels) for y in (0, 1)}
    mean = sum(v for label, _, v in rows if label == 1) / size[1]
    deviation = {}
    for label, group, v in rows:
        deviation.setdefault(group, {}).setdefault(label, []).append(v - mean)
    sums = [(sum(d.get(1, [])), sum(d.get(0, []))) for d in deviation.values()]
    count = {y: sum(y in d for d in deviation.values()) for y in (0, 1)}
    both = len(deviation)
    s10 = Fraction(count[1], (count[1] - 1) * size[1]) * sum(x * x for x, _ in sums)
    s01 = Fraction(count[0], (count[0] - 1) * size[0]) * sum(y * y for _, y in sums)
    s11 = Fraction(both, both - 1) * sum(x * y for x, y in sums)
    return mean, s10 / size[1] + s01 / size[0] + 2 * s11 / (size[1] * size[0])


def resampled_value(labels, scores, users, picked_users, measure, weighting):
    """AUC or GAUC of the picked users' rows, copied; a user picked twice is two users."""
    rows = [
        (copy, labels[row], scores[row])
        for copy, picked in enumerate(picked_users)
        for row, user in enumerate(users)
        if user == picked
    ]
    copies, label, score = (list(column) for column in zip(*rows, strict=True))
    if measure == "auc":
        return reference.pairwise_auc(label, score) if len(set(label)) == 2 else None
    return reference.pairwise_gauc(label, score, copies, weighting, "skip")


def step_up_rejections(p_values, level):
    """Benjamini and Hochberg's procedure: reject the k smallest, for the largest k that fits."""
    tested = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    fits = [k for k, (p, _) in enumerate(tested, start=1) if p <= k / len(tested) * level]
    return {place for _, place in tested[: max(fits, default=0)]}
