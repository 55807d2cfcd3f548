"""What windows save a whole encoder: training steps of BFTS against full causal attention.

Five encoders of four layers of the same width, on the same histories:

* ``full``: every layer reads the whole stream, causally;
* ``windows``: one full layer, then windows of 128, 64 and 32, every token computed to the top;
* ``BFTSEncoder``: the same, but above the full layer only tokens that the target can still
  reach, which is what ``forward`` does;
* ``no scores``: one full layer and three in which each token reads itself alone: projections,
  residual and feed-forward layer without any attention, the bound for windows;
* ``no attention``: one full layer and three feed-forward layers alone.

First the answers: windows, reach and a dense decoder with boolean masks give the same target
state and the same gradients. Rounds are interleaved and medians are kept.

    python -m benchmarks.token_former
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sidrank.layers.attention_masks import window_mask
from sidrank.layers.decoder_block import DecoderBlock
from sidrank.layers.rotary import RotaryEmbedding
from sidrank.layers.self_attention import SelfAttention
from sidrank.sequences.bfts import BFTSEncoder

RESULTS = Path(__file__).parent / "results" / "token_former.json"
DIM, HEADS, HIDDEN, FIELDS, TOKENS = 64, 2, 176, 8, 8192
WINDOWS = (128, 64, 32)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class ReadsItself(nn.Module):
    """A block of the encoder whose tokens have nobody to read but themselves."""

    def __init__(self, block: nn.Module, *, projections: bool) -> None:
        super().__init__()
        self.block = block
        self.projections = projections

    def forward(self, x: Tensor, *_: object) -> Tensor:
        block = self.block
        if self.projections:
            query, key, value = block.attention.project(block.attention_norm(x))
            # the first two are computed and used, as they are where there are scores
            x = block.residual(x, block.attention.merge(value + 0.0 * (query + key)))
        return x + block.ffn(block.ffn_norm(x))


def encoder(windows: tuple[int, ...]) -> BFTSEncoder:
    torch.manual_seed(0)
    return BFTSEncoder(
        dim=DIM,
        num_heads=HEADS,
        hidden=HIDDEN,
        full_layers=4 - len(windows),
        windows=windows,
    )


def bound(*, projections: bool) -> BFTSEncoder:
    model = encoder(WINDOWS)
    for index in range(1, 4):
        model.blocks[index] = ReadsItself(model.blocks[index], projections=projections)
    return model


def every(model: BFTSEncoder) -> Callable[..., Tensor]:
    return lambda *batch: model.every_token(*batch)[1]


def example(length: int, *, padded: bool = False) -> Batch:
    torch.manual_seed(1)
    rows = max(2, TOKENS // length)
    mask = torch.ones(rows, length).bool()
    if padded:
        mask &= torch.rand(rows, length) < 0.8
    sizes = (FIELDS, length, 1)
    static, behaviours, targets = (torch.randn(rows, size, DIM) for size in sizes)
    return static, behaviours, mask, targets


def dense(model: BFTSEncoder, batch: Batch) -> Tensor:
    """The same weights in decoder blocks with boolean masks, the static tokens hidden above."""
    static, behaviours, mask, targets = batch
    rows, (first, second) = len(mask), model.separators.expand(len(mask), 2, DIM).split(1, dim=1)
    prefix = FIELDS + 1
    x = torch.cat([static, first, behaviours, second, targets], dim=1)
    n = mask.sum(dim=1, keepdim=True)
    one = torch.ones(rows, prefix).bool()
    real = torch.cat([one, mask, one[:, :2]], dim=1)
    order = torch.cat([mask.cumsum(dim=1), n + 1, n + 1], dim=1)
    positions = torch.cat([torch.zeros(rows, prefix).long(), order], dim=1)
    # a window counts real tokens: their places without the padding
    place = real.cumsum(dim=1)
    ago = place.unsqueeze(2) - place.unsqueeze(1)
    for block in model.blocks:
        window = block.attention.window
        visible = window_mask(x).expand(rows, -1, -1)
        if window is not None:
            visible = visible & (ago < window)
            visible[:, :, :prefix] = False
        plain = DecoderBlock(
            attention=SelfAttention(
                dim=DIM, num_heads=HEADS, rotary=RotaryEmbedding(head_dim=DIM // HEADS)
            ),
            hidden=HIDDEN,
            residual=block.residual,
        )
        plain.attention_norm, plain.ffn_norm, plain.ffn = (
            block.attention_norm,
            block.ffn_norm,
            block.ffn,
        )
        for name in ("query", "key", "value", "out"):
            setattr(plain.attention, name, getattr(block.attention, name))
        x = plain(x, real, positions, visible)
    return model.norm(x[:, -1:])


def check() -> float:
    """Largest relative difference of answers and gradients."""
    model, batch, worst = encoder(WINDOWS), example(512, padded=True), 0.0
    runs = []
    for answer in (dense(model, batch), model(*batch), every(model)(*batch)):
        # not a square: the last norm has made that a constant
        gradients = torch.autograd.grad(answer.sigmoid().sum(), list(model.parameters()))
        runs.append([answer.detach(), *gradients])
    for run in runs[1:]:
        for one, other in zip(run, runs[0], strict=True):
            worst = max(worst, float((one - other).abs().max() / (1e-6 + other.abs().max())))
    return worst


def step(parameters: list[Tensor], answer: Callable[..., Tensor], batch: Batch) -> None:
    loss = nn.functional.softplus(answer(*batch).sum(dim=2)).mean()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= 0.01 * gradient


def measure(length: int, rounds: int) -> dict[str, float]:
    """Median seconds of a training step."""
    models = {
        "full": encoder(()),
        "windows": encoder(WINDOWS),
        "BFTSEncoder": encoder(WINDOWS),
        "no scores": bound(projections=True),
        "no attention": bound(projections=False),
    }
    answers = {name: every(model) for name, model in models.items()}
    answers["BFTSEncoder"] = models["BFTSEncoder"]
    batch = example(length)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            parameters = list(model.parameters())
            start = time.perf_counter()
            step(parameters, answers[name], batch)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    difference = check()
    assert difference < 1e-3, difference
    rows = []
    for length in options.lengths:
        medians = measure(length, options.rounds)
        tokens = max(2, TOKENS // length) * length
        rows += [
            {
                "length": length,
                "encoder": name,
                "milliseconds": 1000 * value,
                "tokens_per_second": tokens / value,
                "x_full": medians["full"] / value,
                "x_no_scores": medians["no scores"] / value,
                "x_no_attention": medians["no attention"] / value,
            }
            for name, value in medians.items()
        ]
    report = {
        "command": "python -m benchmarks.token_former",
        "dim": DIM,
        "heads": HEADS,
        "hidden": HIDDEN,
        "windows": list(WINDOWS),
        "rounds": options.rounds,
        "threads": options.threads,
        "largest_relative_difference": difference,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"largest relative difference {difference:.1e}")
    print(f"{'length':>6}  {'encoder':<14}{'ms':>8}{'tokens/s':>10}{'x full':>8}{'x bounds':>16}")
    for row in rows:
        print(
            f"{row['length']:>6}  {row['encoder']:<14}{row['milliseconds']:>8.1f}"
            f"{row['tokens_per_second']:>10.0f}{row['x_full']:>8.2f}"
            f"{row['x_no_scores']:>8.2f}{row['x_no_attention']:>8.2f}"
        )


if __name__ == "__main__":
    main()
