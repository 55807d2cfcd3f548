"""The listwise losses as loops over lists; imports nothing of ours."""

import math
from collections import defaultdict


def lists(requests, *values):
    """The rows of each request: one tuple of lists for each."""
    found = defaultdict(list)
    for row, request in enumerate(requests):
        found[request].append(row)
    return [[[column[row] for row in rows] for column in values] for rows in found.values()]


def softmax(logits):
    mass = [math.exp(logit - max(logits)) for logit in logits]
    return [m / math.fsum(mass) for m in mass]


def neural_sort(scores, temperature):
    """Row i is the distribution of which row comes i-th."""
    n = len(scores)
    distance = [math.fsum(abs(s - other) for other in scores) for s in scores]
    return [
        softmax(
            [((n + 1 - 2 * i) * s - a) / temperature for s, a in zip(scores, distance, strict=True)]
        )
        for i in range(1, n + 1)
    ]


def sinkhorn(matrix, iterations=50, tolerance=1e-6):
    """Columns to one, rows to one, until both are."""
    for _ in range(iterations):
        columns = [math.fsum(column) for column in zip(*matrix, strict=True)]
        matrix = [[x / c for x, c in zip(row, columns, strict=True)] for row in matrix]
        matrix = [[x / math.fsum(row) for x in row] for row in matrix]
        columns = [math.fsum(column) for column in zip(*matrix, strict=True)]
        if max(abs(c - 1) for c in columns) < tolerance:
            break
    return matrix


def dcg(gains, k):
    return math.fsum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))


def neural_ndcg(scores, labels, requests, temperature, k=None):
    values = []
    for own, grade in lists(requests, scores, labels):
        gains = [2**y - 1 for y in grade]
        ideal = dcg(sorted(gains, reverse=True), k)
        if ideal > 0:
            matrix = sinkhorn(neural_sort(own, temperature))
            smooth = [math.fsum(p * g for p, g in zip(row, gains, strict=True)) for row in matrix]
            values.append(dcg(smooth, k) / ideal)
    return -math.fsum(values) / len(values) if values else 0.0


def listnet(scores, labels, requests):
    values = []
    for own, grade in lists(requests, scores, labels):
        if sum(grade) > 0:
            shares = softmax(own)
            values.append(
                -math.fsum(y / sum(grade) * math.log(p) for y, p in zip(grade, shares, strict=True))
            )
    return math.fsum(values) / len(values) if values else 0.0


def pairwise_logistic(scores, labels, requests):
    values = []
    for own, grade in lists(requests, scores, labels):
        rows = range(len(own))
        pairs = [
            math.log1p(math.exp(own[j] - own[i])) for i in rows for j in rows if grade[i] > grade[j]
        ]
        if pairs:
            values.append(math.fsum(pairs) / len(pairs))
    return math.fsum(values) / len(values) if values else 0.0


def jrc(logits, labels, requests, alpha):
    """``logits`` are pairs: of no click and of a click."""
    calibration, ranking = [], []
    for own, clicks in lists(requests, logits, labels):
        for pair, click in zip(own, clicks, strict=True):
            calibration.append(-math.log(softmax(pair)[click]))
            mass = math.fsum(math.exp(other[click]) for other in own)
            ranking.append(-math.log(math.exp(pair[click]) / mass))
    rows = len(calibration)
    return (alpha * math.fsum(calibration) + (1 - alpha) * math.fsum(ranking)) / rows
