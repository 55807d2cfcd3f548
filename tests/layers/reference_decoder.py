"""A decoder one token at a time, as the papers write it; nothing of ours but the weights.

A token is a numpy vector, a sequence a list of them. ``visible(i, j)`` says whether token ``i``
reads token ``j``.
"""

import cmath
import math

import numpy as np

EPSILON = np.finfo(np.float64).eps  # what torch takes for float64


def rms_norm(x, weight):
    return x / math.sqrt(np.mean(x**2) + EPSILON) * weight


def silu(x):
    return x / (1.0 + np.exp(-x))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def swiglu(x, w):
    return w["out.weight"] @ (silu(w["gate.weight"] @ x) * (w["up.weight"] @ x))


def turned(x, position, base=10000.0):
    """RoPE: channels i and i + d/2 are a complex number, turned by position * theta_i."""
    half = len(x) // 2
    answer = np.empty(len(x))
    for i in range(half):
        theta = base ** (-2 * i / len(x))
        z = complex(x[i], x[i + half]) * cmath.exp(1j * position * theta)
        answer[i], answer[i + half] = z.real, z.imag
    return answer


def attention(tokens, positions, w, num_heads, visible, rotary=True):
    """Multi-head attention of each token on those visible to it."""
    dim = len(w["out.weight"])
    width = dim // num_heads
    answers = []
    for i, token in enumerate(tokens):
        context = np.zeros(dim)
        for head in range(num_heads):
            lanes = slice(head * width, (head + 1) * width)
            q = (w["query.weight"] @ token)[lanes]
            scores, values = [], []
            for j, other in enumerate(tokens):
                if visible(i, j):
                    k = (w["key.weight"] @ other)[lanes]
                    turn = turned if rotary else (lambda x, position: x)
                    score = turn(q, positions[i]) @ turn(k, positions[j])
                    scores.append(score / math.sqrt(width))
                    values.append((w["value.weight"] @ other)[lanes])
            if scores:
                weights = np.exp(np.array(scores) - max(scores))
                weights = weights / weights.sum()
                context[lanes] = sum(a * v for a, v in zip(weights, values, strict=True))
        answers.append(w["out.weight"] @ context)
    return answers


def block(tokens, positions, w, num_heads, visible):
    """Pre-norm attention, gated by the stream where there is a gate, then SwiGLU."""
    normed = [rms_norm(x, w["attention_norm.weight"]) for x in tokens]
    branches = attention(normed, positions, within(w, "attention"), num_heads, visible)
    answers = []
    for x, branch in zip(tokens, branches, strict=True):
        if "residual.gate.weight" in w:
            gate = 2.0 * sigmoid(w["residual.gate.weight"] @ x + w["residual.gate.bias"])
            x = x + gate * branch
        else:
            x = x + branch
        answers.append(x + swiglu(rms_norm(x, w["ffn_norm.weight"]), within(w, "ffn")))
    return answers


def within(w, name):
    return {key[len(name) + 1 :]: value for key, value in w.items() if key.startswith(name + ".")}


def weights_of(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
