"""DIN against the DINs of other libraries: forward, backward and step, equal outputs first.

The peers are FuxiCTR's ``DIN_Attention``, torch-rechub's ``ActivationUnit`` and DeepCTR-Torch's
``AttentionSequencePoolingLayer``, from equal weights. torch-rechub's unit has batch norm, which no
other has: it runs without, which is faster. Once the tower alone, once inside the same ranker
(an item table, the tower, a head of two layers, Adam): only the tower differs. Seconds of one
thread, rounds interleaved, medians.

    python -m benchmarks.din
"""

import argparse
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidrank.towers.din import DIN

RESULTS = Path(__file__).parent / "results" / "din.json"
BATCH, LENGTH, ITEMS = 2048, 50, 20_000
# width, hidden layers, activation, share of real places
CASES = [
    (16, (64, 16), "relu", 1.0),
    (32, (64, 16), "relu", 1.0),
    (64, (64, 16), "relu", 1.0),
    (32, (80, 40), "relu", 1.0),
    (32, (36,), "relu", 1.0),
    (32, (64, 16), "prelu", 1.0),
    (32, (64, 16), "relu", 0.5),
]
PEERS = {"FuxiCTR": "fuxictr", "torch-rechub": "torch-rechub", "DeepCTR-Torch": "deepctr-torch"}


class Tower(nn.Module):
    """One library's unit behind one signature: candidates [B, D], behaviours, lengths."""

    def __init__(self, unit: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.unit = unit
        self.call = call

    def forward(self, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        return self.call(self.unit, target, history, lengths)


class Ranker(nn.Module):
    """The same for everybody but the tower."""

    def __init__(self, tower: Tower, dim: int) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, dim, padding_idx=0)
        self.tower = tower
        self.head = nn.Sequential(
            nn.Linear(2 * dim, 200), nn.ReLU(), nn.Linear(200, 80), nn.ReLU(), nn.Linear(80, 1)
        )

    def forward(self, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        wanted, seen = self.items(target), self.items(history)
        return self.head(torch.cat([wanted, self.tower(wanted, seen, lengths)], dim=1)).squeeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(*case, batch=options.batch, rounds=options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "command": "python -m benchmarks.din",
        "batch": options.batch,
        "length": LENGTH,
        "items": ITEMS,
        "rounds": options.rounds,
        "threads": 1,
        "torch": torch.__version__,
        "peers": {name: metadata.version(wheel) for name, wheel in PEERS.items()},
        "machine": platform.machine(),
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(
    dim: int, hidden: tuple[int, ...], activation: str, fill: float, *, batch: int, rounds: int
) -> dict[str, Any]:
    lengths = torch.full((batch,), LENGTH)
    if fill < 1:
        lengths = torch.randint(0, int(2 * fill * LENGTH) + 1, (batch,))
    built = towers(dim, hidden, activation)
    target = torch.randn(batch, dim)
    history = torch.randn(batch, LENGTH, dim) * real(lengths, LENGTH).unsqueeze(2)
    difference = largest_difference(built, target, history, lengths)
    assert difference < 1e-5, (dim, hidden, activation, fill, difference)
    steps = {name: tower_step(tower, target, history, lengths) for name, tower in built.items()}
    alone = interleaved(steps, rounds)

    target, history = torch.randint(1, ITEMS, (batch,)), torch.randint(1, ITEMS, (batch, LENGTH))
    history = history * real(lengths, LENGTH)
    rankers = {name: Ranker(tower, dim) for name, tower in towers(dim, hidden, activation).items()}
    for ranker in rankers.values():
        shared = rankers["sidrank"]
        ranker.items.load_state_dict(shared.items.state_dict())
        ranker.head.load_state_dict(shared.head.state_dict())
    steps = {name: ranker_step(each, target, history, lengths) for name, each in rankers.items()}
    losses = {name: step() for name, step in steps.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-6, losses
    inside = interleaved(steps, rounds)
    return {
        "width": dim,
        "hidden": list(hidden),
        "activation": activation,
        "fill": float(lengths.double().mean() / LENGTH),
        "difference": difference,
        "tower": figures(alone, batch),
        "ranker": figures(inside, batch),
    }


def figures(seconds: dict[str, float], batch: int) -> dict[str, Any]:
    peers = {name: seconds[name] for name in PEERS}
    return {
        "milliseconds": {name: 1000 * seconds[name] for name in seconds},
        "samples_per_second": {name: batch / seconds[name] for name in seconds},
        "fastest_peer": min(peers, key=lambda name: peers[name]),
        "ratio": min(peers.values()) / seconds["sidrank"],
    }


def towers(dim: int, hidden: tuple[int, ...], activation: str) -> dict[str, Tower]:
    """Ours and the peers', from equal weights."""
    ours = DIN(dim=dim, hidden=hidden)
    fuxi = _fuxictr()(
        embedding_dim=dim,
        attention_units=list(hidden),
        hidden_activations=nn.PReLU() if activation == "prelu" else "ReLU",
    )
    if activation == "prelu":  # its own constructor would start each slope at 0.1
        for place in range(1, 2 * len(hidden), 2):
            fuxi.attention_layer.mlp[place] = nn.PReLU()
    rechub = import_module("torch_rechub.models.ranking.din").ActivationUnit(
        dim, dims=list(hidden), activation=activation
    )
    rechub.attention.mlp = nn.Sequential(
        *(x for x in rechub.attention.mlp if not isinstance(x, nn.BatchNorm1d | nn.Dropout))
    )
    deepctr = _deepctr()(att_hidden_units=hidden, embedding_dim=dim, att_activation=activation)
    with torch.no_grad():
        for peer in (linears(each) for each in (fuxi, rechub, deepctr)):
            for mine, theirs in zip(linears(ours), peer, strict=True):
                theirs.weight.copy_(mine.weight)
                theirs.bias.copy_(mine.bias)
    if activation == "relu":
        for layer in ours.mlp:
            if isinstance(layer, nn.PReLU):
                layer.weight.requires_grad_(False).zero_()
    return {
        "sidrank": Tower(ours, of_mask_and_candidates),
        "FuxiCTR": Tower(fuxi, of_mask),
        "torch-rechub": Tower(rechub, of_history),
        "DeepCTR-Torch": Tower(deepctr, of_lengths),
    }


def of_mask_and_candidates(
    unit: nn.Module, target: Tensor, history: Tensor, lengths: Tensor
) -> Tensor:
    return unit(target.unsqueeze(1), history, real(lengths, history.shape[1])).squeeze(1)


def of_mask(unit: nn.Module, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
    return unit(target, history, real(lengths, history.shape[1]))


def of_history(unit: nn.Module, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
    """Reads padding too, which is zero and adds nothing."""
    return unit(history, target)


def of_lengths(unit: nn.Module, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
    return unit(target.unsqueeze(1), history, lengths).squeeze(1)


def real(lengths: Tensor, length: int) -> Tensor:
    return torch.arange(length) < lengths.unsqueeze(1)


def linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


def largest_difference(
    built: dict[str, Tower], target: Tensor, history: Tensor, lengths: Tensor
) -> float:
    """Between outputs, as a share of the largest one."""
    answers = [tower(target, history, lengths).detach() for tower in built.values()]
    scale = float(answers[0].abs().max())
    return max(float((each - answers[0]).abs().max()) for each in answers[1:]) / scale


def tower_step(
    tower: Tower, target: Tensor, history: Tensor, lengths: Tensor
) -> Callable[[], float]:
    target, history = target.clone().requires_grad_(), history.clone().requires_grad_()
    trained = [p for p in tower.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-6)
    upstream = torch.randn_like(target)

    def step() -> float:
        optimizer.zero_grad()
        target.grad = history.grad = None
        tower(target, history, lengths).backward(upstream)
        optimizer.step()
        return 0.0

    return step


def ranker_step(
    ranker: Ranker, target: Tensor, history: Tensor, lengths: Tensor
) -> Callable[[], float]:
    trained = [p for p in ranker.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-6)
    labels = (target % 2).float()

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(ranker(target, history, lengths), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def interleaved(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.thread_time()
            step()
            if turn:  # the first one warms up
                seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _fuxictr() -> Any:
    for package in ("fuxictr.pytorch.layers", "fuxictr.pytorch.layers.blocks"):
        _bare(package)
    return import_module("fuxictr.pytorch.layers.attentions.target_attention").DIN_Attention


def _deepctr() -> Any:
    _bare("deepctr_torch")
    return import_module("deepctr_torch.layers.sequence").AttentionSequencePoolingLayer


def _bare(package: str) -> None:
    """A package whose own file does not run: it would load ``ray``, or ask the network."""
    if package not in sys.modules:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = list(spec.submodule_search_locations)


if __name__ == "__main__":
    main()
