"""Sparse attention over one history by loops over lists, as the paper tells it; nothing of ours."""

import math
from datetime import UTC, datetime, timedelta

GLOBAL, TRANSITION, LOCAL = range(3)


def in_time_order(real, times):
    """Places of real behaviours, oldest first, the further left first of one instant."""
    return sorted((i for i, here in enumerate(real) if here), key=lambda i: (times[i], i))


def time_chunks(times, num_chunks):
    """Chunk of each behaviour, given in time order: cut at the largest gaps, the latest first."""
    gaps = [(times[i] - times[i - 1], i) for i in range(1, len(times))]
    cuts = {i for _, i in sorted(gaps, reverse=True)[: num_chunks - 1]}
    chunks, chunk = [], 0
    for i in range(len(times)):
        chunk += i in cuts
        chunks.append(chunk)
    return chunks


def equal_chunks(length, num_chunks):
    """As many in each, give or take one."""
    return [math.floor(i * num_chunks / max(length, num_chunks)) for i in range(length)]


def visible(place, chunks, last, window):
    """Lists of places that each branch sees; the global branch has one list for each chunk.

    The place after the last behaviour is a candidate's, in a chunk of its own.
    """
    own = chunks[place] if place < len(chunks) else math.inf
    earlier = [
        [i for i, chunk in enumerate(chunks) if chunk == each]
        for each in sorted(set(chunks))
        if each < own
    ]
    transition = [i for members in earlier for i in members[-last:]]
    local = [i for i in range(place + 1) if place - i < window]
    return earlier, transition, local


def bias(query_time, key_time, a, b, c, utc_offset=0):
    """One head's bias for two moments in seconds."""
    bucket = 0
    while 2 ** (bucket + 1) <= 1 + abs(query_time - key_time):
        bucket += 1
    one, other = (
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=t + utc_offset)
        for t in (query_time, key_time)
    )
    hour = math.cos(2 * math.pi * (one.hour - other.hour) / 24)
    both = all(day.isoweekday() in (6, 7) for day in (one, other))
    return -a * bucket + b * hour + c * (0 if both else -1)


def product(matrix, vector):
    return [math.fsum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]


def mean(vectors):
    return [math.fsum(lane) / len(vectors) for lane in zip(*vectors, strict=True)]


def softmax_read(query, keys, values, biases):
    """Zeros without a key."""
    logits = [
        math.fsum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) + own
        for key, own in zip(keys, biases, strict=True)
    ]
    weights = [math.exp(logit) for logit in logits]
    total = math.fsum(weights)
    return [
        math.fsum(w / total * value[d] for w, value in zip(weights, values, strict=True))
        for d in range(len(query))
    ]


def head(vector, number, size):
    return vector[number * size : (number + 1) * size]


def sparse_attention(place, stream, times, chunks, *, weights, last, window, heads, user, moments):
    """What the behaviour at `place` of `stream` reads.

    `weights` holds the matrices query, key, value, gate and out; `moments(h, t, t')` is the bias.
    """
    x = stream[place]
    size = len(x) // heads
    earlier, transition, local = visible(place, chunks, last, window)
    branches = [
        [(mean([stream[i] for i in members]), times[members[-1]]) for members in earlier],
        [(stream[i], times[i]) for i in transition],
        [(user, None)] * (user is not None) + [(stream[i], times[i]) for i in local],
    ]
    gates = [1 / (1 + math.exp(-g)) for g in product(weights["gate"], x)]
    context = []
    for h in range(heads):
        query = head(product(weights["query"], x), h, size)
        answers = [
            softmax_read(
                query,
                [head(product(weights["key"], key), h, size) for key, _ in tokens],
                [head(product(weights["value"], key), h, size) for key, _ in tokens],
                [0.0 if t is None else moments(h, times[place], t) for _, t in tokens],
            )
            for tokens in branches
        ]
        for d in range(size):
            context.append(
                math.fsum(gates[b * heads + h] * answers[b][d] for b in (GLOBAL, TRANSITION, LOCAL))
            )
    return product(weights["out"], context)
