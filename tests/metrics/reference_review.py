"""Slow definitions of the launch-review metrics: loops and dictionaries, nothing of ours."""

import math
from fractions import Fraction
from itertools import permutations

from tests.reference import pairwise_auc


def equal_mass_bins(probabilities, weights, bins):
    """Bin of each row: where on a scale of ``bins`` the middle of its value's mass lies."""
    mass = {}
    for probability, weight in zip(probabilities, weights, strict=True):
        mass[probability] = mass.get(probability, 0) + Fraction(weight)
    total = sum(mass.values())
    bin_of, below = {}, 0
    for probability in sorted(mass):
        bin_of[probability] = math.floor(bins * (below + mass[probability] / 2) / total)
        below += mass[probability]
    return [bin_of[probability] for probability in probabilities]


def reliability(labels, probabilities, weights, bins):
    """(rows, share, mean prediction, rate, rows in effect) of each bin with weight, ascending."""
    members = {}
    for row, number in enumerate(equal_mass_bins(probabilities, weights, bins)):
        if weights[row] > 0:
            members.setdefault(number, []).append(row)
    table = []
    for number in sorted(members):
        rows = members[number]
        mass = math.fsum(weights[row] for row in rows)
        predicted = math.fsum(weights[row] * probabilities[row] for row in rows)
        observed = math.fsum(weights[row] for row in rows if labels[row])
        squares = math.fsum(weights[row] ** 2 for row in rows)
        share = mass / math.fsum(weights)
        table.append((len(rows), share, predicted / mass, observed / mass, mass**2 / squares))
    return table


def calibration_error(labels, probabilities, weights, bins):
    """Mean distance between prediction and rate, a bin counting as its share."""
    table = reliability(labels, probabilities, weights, bins)
    return math.fsum(share * abs(mean - rate) for _, share, mean, rate, _ in table)


def list_ndcg(gains, depth):
    """NDCG of one list whose gains are given from the first rank down."""

    def dcg(ordered):
        return math.fsum(
            gain / math.log2(rank + 1) for rank, gain in enumerate(ordered[:depth], start=1)
        )

    return dcg(gains) / dcg(sorted(gains, reverse=True))


def list_reciprocal_rank(gains, depth):
    """One over the rank of the first relevant row of one list."""
    for rank, gain in enumerate(gains[:depth], start=1):
        if gain > 0:
            return 1 / rank
    return 0.0


def list_hit(gains, depth):
    """Whether one list has a relevant row among its first ones."""
    return float(any(gain > 0 for gain in gains[:depth]))


def mean_over_requests(metric, gains, scores, requests, depth, no_relevant):
    """Expected metric of each request over all orders that its scores allow, then the mean."""
    rows_of = {}
    for row, request in enumerate(requests):
        rows_of.setdefault(request, []).append(row)
    values = []
    for rows in rows_of.values():
        if all(gains[row] == 0 for row in rows):
            if no_relevant == "zero":
                values.append(0.0)
            continue
        outcomes = []
        for order in permutations(rows):
            ranked = [scores[row] for row in order]
            if ranked == sorted(ranked, reverse=True):
                outcomes.append(metric([gains[row] for row in order], depth))
        values.append(math.fsum(outcomes) / len(outcomes))
    return math.fsum(values) / len(values) if values else None


def hierarchical_recall(targets, candidates, k, unknown):
    """Share of requests whose target's prefix is the prefix of one of the first candidates."""
    levels = len(targets[0])
    found, counted = [0] * levels, 0
    for target, listed in zip(targets, candidates, strict=True):
        known = -1 not in target
        counted += known or unknown == "miss"
        for level in range(1, levels + 1):
            prefixes = [tuple(candidate[:level]) for candidate in listed[:k]]
            found[level - 1] += known and tuple(target[:level]) in prefixes
    return [hits / counted for hits in found] if counted else None


def slice_table(labels, scores, slices, weights):
    """Name, rows, positives, AUC, calibration, log loss and NE of each slice, NaN if undefined."""
    rows_of = {}
    for row, name in enumerate(slices):
        if weights[row] > 0:
            rows_of.setdefault(name, []).append(row)
    table = []
    for name in sorted(rows_of):
        rows = rows_of[name]
        total = math.fsum(weights[row] for row in rows)
        clicks = math.fsum(weights[row] for row in rows if labels[row])
        predicted = math.fsum(weights[row] * scores[row] for row in rows)
        loss = math.fsum(
            -weights[row] * math.log(scores[row] if labels[row] else 1 - scores[row])
            for row in rows
        )
        both = 0 < clicks < total
        area = entropy = math.nan
        if both:
            columns = [[column[row] for row in rows] for column in (labels, scores, weights)]
            area = pairwise_auc(*columns)
            rate = clicks / total
            entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        table.append(
            (
                name,
                len(rows),
                sum(1 for row in rows if labels[row]),
                area,
                predicted / clicks if clicks else math.nan,
                loss / total,
                loss / total / entropy,
            )
        )
    return table


def exposure_cohorts(items, exposures, tail_share):
    """New, tail or head: items from the least shown up, until ``tail_share`` of them are tail."""
    shown = sorted(count for count in exposures.values() if count > 0)
    border = None
    for place, count in enumerate(shown, start=1):
        if border is None and Fraction(place, len(shown)) >= tail_share:
            border = count
    cohorts = []
    for item in items:
        count = exposures.get(item, 0)
        cohorts.append("new" if count == 0 else "tail" if count <= border else "head")
    return cohorts
