"""Searches, alignment and tiers by loops over lists; nothing of ours."""

import math


def cosine(a, b):
    """0 if one of them is zero."""
    lengths = math.sqrt(math.fsum(v * v for v in a)) * math.sqrt(math.fsum(v * v for v in b))
    return math.fsum(v * w for v, w in zip(a, b, strict=True)) / lengths if lengths else 0.0


def best_by_time(scores, real, times, k):
    """Best k places: by score, then the newer, then the one further right; told oldest first."""
    places = [place for place in range(len(scores)) if real[place]]
    places.sort(key=lambda place: (scores[place], times[place], place), reverse=True)
    return sorted(places[:k], key=lambda place: (times[place], place))


def soft_bins(value, hidden, head, vectors, temperature):
    """AutoDis of one number; hidden is (weights, biases), head a matrix, vectors a list."""
    inside = [w * value + b for w, b in zip(*hidden, strict=True)]
    inside = [x if x > 0 else 0.01 * x for x in inside]
    logits = [
        (math.fsum(w * x for w, x in zip(row, inside, strict=True)) + own) / temperature
        for row, own in zip(head, inside, strict=True)
    ]
    total = math.fsum(math.exp(logit) for logit in logits)
    shares = [math.exp(logit) / total for logit in logits]
    return [
        math.fsum(share * vector[d] for share, vector in zip(shares, vectors, strict=True))
        for d in range(len(vectors[0]))
    ]


def alignment(target, behaviours, embed):
    """Largest, then mean, of each lane of the embedded cosines; None without a behaviour."""
    embedded = [embed(cosine(target, behaviour)) for behaviour in behaviours]
    if not embedded:
        return None
    largest = [max(lane) for lane in zip(*embedded, strict=True)]
    return largest + [math.fsum(lane) / len(lane) for lane in zip(*embedded, strict=True)]


def hard_search(code, codes, real, times, codebook, k, min_found, num_near):
    """Same code first; of near codes too, nearest first, if fewer than min_found were found."""
    if code < 0:
        return []
    others = sorted(
        (math.dist(codebook[code], vector), other)
        for other, vector in enumerate(codebook)
        if other != code
    )
    closeness = {code: 0}
    matches = [place for place, other in enumerate(codes) if real[place] and other == code]
    if len(matches) < min_found:
        for rank, (_, other) in enumerate(others[:num_near]):
            closeness[other] = -1 - rank
    found = [real[place] and other in closeness for place, other in enumerate(codes)]
    scores = [closeness.get(other, 0) for other in codes]
    return best_by_time(scores, found, times, k)


def tier_counts(prototypes, behaviours, num_tiers):
    """counts[prototype][tier] of the cosines of the behaviours."""
    counts = [[0] * num_tiers for _ in prototypes]
    for row, prototype in zip(counts, prototypes, strict=True):
        for behaviour in behaviours:
            share = (round(cosine(prototype, behaviour), 9) + 1) / 2
            row[min(num_tiers - 1, math.floor(share * num_tiers))] += 1
    return counts
