"""Dense blocks by loops over lists; nothing of ours."""

import math


def linear(weight, bias, x):
    return [
        math.fsum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def attention(query, keys, layers, num_heads):
    """Multi-head attention of one query; layers are (weight, bias) of query, key, value, out."""
    q = linear(*layers["query"], query)
    ks = [linear(*layers["key"], key) for key in keys]
    vs = [linear(*layers["value"], key) for key in keys]
    width = len(q) // num_heads
    context = []
    for head in range(num_heads):
        lanes = range(head * width, (head + 1) * width)
        scores = [math.fsum(q[d] * k[d] for d in lanes) / math.sqrt(width) for k in ks]
        total = math.fsum(math.exp(score) for score in scores)
        for d in lanes:
            mixed = [math.exp(s) / total * v[d] for s, v in zip(scores, vs, strict=True)]
            context.append(math.fsum(mixed))
    return linear(*layers["out"], context)


def attention_layers(module):
    """Weights of a module with the sub-modules query, key, value and out, as lists."""
    layers = {}
    for name in ("query", "key", "value", "out"):
        part = getattr(module, name)
        bias = [0.0] * len(part.weight) if part.bias is None else part.bias.tolist()
        layers[name] = part.weight.tolist(), bias
    return layers
