"""Token mixing and experts by loops over lists; nothing of ours."""

import math

from tests.layers import reference_layers


def mix(tokens, num_heads):
    """Token h of the answer: head h of every token, one after the other."""
    width = len(tokens[0]) // num_heads
    mixed = []
    for head in range(num_heads):
        mixed.append([])
        for token in tokens:
            mixed[head].extend(token[head * width : (head + 1) * width])
    return mixed


def gelu(x):
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def ffn(hidden, out, x):
    """Two layers (weight, bias), the weight with one row for each number that comes out."""
    inner = [gelu(value) for value in reference_layers.linear(*hidden, x)]
    return reference_layers.linear(*out, inner)


def layer_norm(weight, bias, x, epsilon=1e-5):
    mean = math.fsum(x) / len(x)
    variance = math.fsum((value - mean) ** 2 for value in x) / len(x)
    scale = math.sqrt(variance + epsilon)
    return [w * (v - mean) / scale + b for v, w, b in zip(x, weight, bias, strict=True)]


def plus(one, other):
    return [a + b for a, b in zip(one, other, strict=True)]


def rank_mixer(tokens, networks, mix_norm, ffn_norm):
    """One network (hidden, out) for each token; norms are (weight, bias)."""
    answers = []
    for token, mixed, network in zip(tokens, mix(tokens, len(tokens)), networks, strict=True):
        state = layer_norm(*mix_norm, plus(mixed, token))
        answers.append(layer_norm(*ffn_norm, plus(ffn(*network, state), state)))
    return answers


def boost(tokens, networks):
    mixed = mix(tokens, len(tokens))
    return [
        plus(token, ffn(*network, m))
        for token, m, network in zip(tokens, mixed, networks, strict=True)
    ]


def mixture(x, router, bias, experts, k):
    """The k experts with the largest score + bias, each weighted by its score without the bias."""
    scores = []
    for row in router:
        product = math.fsum(w * v for w, v in zip(row, x, strict=True))
        scores.append(1.0 / (1.0 + math.exp(-product)))
    ranked = sorted(range(len(router)), key=lambda e: scores[e] + bias[e], reverse=True)
    chosen = ranked[:k]
    answer = [0.0] * len(x)
    for e in chosen:
        answer = plus(answer, [scores[e] * value for value in ffn(*experts[e], x)])
    return answer, chosen


def per_token_networks(module):
    """Layers of a module with batched ``hidden`` and ``out``, as lists for :func:`ffn`."""
    return [
        tuple(
            (layer.weight[token].t().tolist(), layer.bias[token].tolist())
            for layer in (module.hidden, module.out)
        )
        for token in range(len(module.hidden.weight))
    ]


def experts(module):
    """Experts of a mixture, as lists for :func:`ffn`; they have no biases."""
    return [
        tuple((w[e].t().tolist(), [0.0] * w.shape[2]) for w in (module.hidden, module.out))
        for e in range(len(module.hidden))
    ]
