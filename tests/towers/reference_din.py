"""Target attention by an activation unit, number by number; imports nothing of ours."""

import math


def mlp(x, layers):
    """Layers (weight, bias, slope) on a list of numbers; the last one has no slope."""
    for weight, bias, slope in layers:
        x = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        if slope is not None:
            x = [v if v > 0 else slope * v for v in x]
    return x[0]


def layers_of(module):
    """The layers of a unit: linear, PReLU, linear, PReLU, ..., linear."""
    parts = [*module, None]
    return [
        (
            linear.weight.tolist(),
            linear.bias.tolist(),
            prelu.weight.item() if prelu is not None else None,
        )
        for linear, prelu in zip(parts[::2], parts[1::2], strict=True)
    ]


def din(target, history, layers, *, softmax=False):
    """One candidate and its real behaviours."""
    scores = []
    for key in history:
        difference = [q - k for q, k in zip(target, key, strict=True)]
        product = [q * k for q, k in zip(target, key, strict=True)]
        scores.append(mlp([*target, *key, *difference, *product], layers))
    return weighted(history, scores, len(target), softmax)


def urgency_din(target, history, gaps, left, layers, *, position_dim, buckets, softmax=False):
    """``gaps`` of the behaviours and time ``left`` for the candidate, in the unit of buckets."""
    scores = []
    for key, gap in zip(history, gaps, strict=True):
        difference = [k - q for q, k in zip(target, key, strict=True)]
        product = [q * k for q, k in zip(target, key, strict=True)]
        place, urgent = position(gap, position_dim), urgency(left, buckets)
        scores.append(mlp([*key, *target, *difference, *product, *place, *urgent], layers))
    return weighted(history, scores, len(target), softmax)


def urgency(left, buckets):
    left = max(left, 0.0)
    passed = [1.0 if left >= boundary else 0.0 for boundary in buckets]
    return [min(left / buckets[-1], 1.0), math.log(1 + left), *passed]


def position(gap, dim):
    """Turns per unit of log time fall from 4 to 1/16, evenly in their own log."""
    number, x = dim // 2, math.log(1 + gap)
    turns = [4 / 64 ** (j / max(1, number - 1)) for j in range(number)]
    return [math.sin(turn * x) for turn in turns] + [math.cos(turn * x) for turn in turns]


def weighted(history, scores, dim, softmax):
    if softmax and scores:
        total = sum(math.exp(score - max(scores)) for score in scores)
        scores = [math.exp(score - max(scores)) / total for score in scores]
    pairs = list(zip(scores, history, strict=True))
    return [sum((score * key[d] for score, key in pairs), 0.0) for d in range(dim)]


def hamming_search(target, history, known, times, planes, k):
    """Places of the ``k`` signatures nearest to the target's; ties to the newer, then the right."""

    def bits(x):
        return [sum(a * p for a, p in zip(x, plane, strict=True)) >= 0 for plane in planes]

    own = bits(target)
    order = []
    for place, vector in enumerate(history):
        if known[place]:
            differ = sum(a != b for a, b in zip(own, bits(vector), strict=True))
            order.append((differ, -times[place], -place))
    found = [-place for _, _, place in sorted(order)[:k]]
    return sorted(found, key=lambda place: (times[place], place))
