"""Attention by loops over single queries and keys."""

import math

import torch
from torch import Tensor


def sees(query: int, key: int, window: int | None, causal: bool) -> bool:
    if causal and key > query:
        return False
    return window is None or abs(query - key) < window


def windowed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    real: list[list[bool]],
    causal: bool = True,
) -> Tensor:
    rows, heads, length, width = query.shape
    read = torch.zeros_like(value)
    for row in range(rows):
        for head in range(heads):
            for i in range(length):
                seen = [j for j in range(length) if sees(i, j, window, causal) and real[row][j]]
                scores = [
                    float(query[row, head, i] @ key[row, head, j]) / math.sqrt(width) for j in seen
                ]
                total = sum(math.exp(score) for score in scores)
                for j, score in zip(seen, scores, strict=True):
                    read[row, head, i] += math.exp(score) / total * value[row, head, j]
    return read


def window_mask(length: int, window: int | None, causal: bool) -> list[list[bool]]:
    places = range(length)
    return [[sees(i, j, window, causal) for j in places] for i in places]


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    rows, heads, length, width = query.shape
    read = value.new_zeros(rows, heads, length, value.shape[3])
    for row in range(rows):
        for head in range(heads):
            for i in range(length):
                seen = [j for j in range(key.shape[2]) if visible[row, head, i, j]]
                scores = [
                    float(query[row, head, i] @ key[row, head, j]) / math.sqrt(width) for j in seen
                ]
                total = sum(math.exp(score) for score in scores)
                for j, score in zip(seen, scores, strict=True):
                    read[row, head, i] += math.exp(score) / total * value[row, head, j]
    return read
