"""The fusion of views as loops over numbers; imports nothing of ours."""

import math


def fused_views(tokens, weights, heads):
    """One item vector from token lists by view, as the formulas of the fusion read."""

    def linear(name, x):
        rows = weights[f"{name}.weight"]
        bias = weights.get(f"{name}.bias", [0.0] * len(rows))
        return [sum(w * v for w, v in zip(row, x, strict=True)) + b
                for row, b in zip(rows, bias, strict=True)]  # fmt: skip

    def norm(x):
        mean = sum(x) / len(x)
        variance = sum((v - mean) ** 2 for v in x) / len(x)
        return [(v - mean) / math.sqrt(variance + 1e-5) for v in x]

    read = [norm(linear(f"projections.view_{view}", t)) for view, ts in tokens.items() for t in ts]
    keys, values = ([linear(f"attention.{name}", t) for t in read] for name in ("key", "value"))
    states = []
    for state in weights["queries"]:
        query, seen = linear("attention.query", norm(state)), []
        width = len(query) // heads
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = [
                sum(q * k for q, k in zip(query[part], key[part], strict=True)) / math.sqrt(width)
                for key in keys
            ]
            mass = sum(math.exp(score) for score in scores)
            for column in range(*part.indices(len(query))):
                shares = (math.exp(score) / mass for score in scores)
                seen.append(sum(s * v[column] for s, v in zip(shares, values, strict=True)))
        state = [a + b for a, b in zip(state, linear("attention.out", seen), strict=True)]
        inside = [max(0.0, v) for v in linear("hidden_in", norm(state))]
        states.append([a + b for a, b in zip(state, linear("hidden_out", inside), strict=True)])
    return [sum(column) / len(states) for column in zip(*states, strict=True)]
