"""What it costs to turn items into SID rows and to train on them, and to make byte-pair units.

Lookup: one training step (forward, backward, SGD) on the five resolutions of a batch of items.

* ``one fused lookup``: the limit. One table that has all rows, one feature with as many ids,
  ready in the batch;
* ``sidrank``: ``SIDExpander(mode="multires")`` in front of one stock collection, sharded by
  ``DistributedModelParallel`` on one rank with SGD fused into the backward pass;
* ``five EmbeddingBag``: what torch alone offers. Codes by ``index_select``, row ids by plain
  arithmetic, five ``nn.EmbeddingBag(sparse=True)``, sparse SGD.

Units: ``SIDBPE`` learns its merges from a million items and spells them. Tiers: one behaviour is
added to the cached histogram of a history, which is then made into its token; the peer counts the
whole history again. Equal results come first, rounds are interleaved and the median is kept.

    python -m benchmarks.sid_expansion
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.embeddings import RawIDSource, SIDExpander
from sidrank.semantic_ids import SIDLookup, SIDSpec, SIDTable
from sidrank.semantic_ids.bpe import SIDBPE
from sidrank.semantic_ids.unit_usage import unit_usage
from sidrank.sequences import SIDTierToken, TierHistogram

RESULTS = Path(__file__).parent / "results" / "sid_expansion.json"
CODES = 1000  # a level; a pair's table has a million rows
RATE = 0.1
HISTORIES = (100, 1_000, 10_000)
SHAPES = ((1, 16), (1, 64), (10, 16), (10, 64))  # items a row, width


class Expanded(nn.Module):
    """The expander and one stock collection behind it."""

    def __init__(self, expander: SIDExpander, dim: int) -> None:
        super().__init__()
        tables = expander.embedding_bag_configs(embedding_dim=dim, init_fn=None)
        self.expander = expander
        self.ebc = EmbeddingBagCollection(tables=tables)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        return self.ebc(self.expander(features)).values()


class OneLookup(nn.Module):
    """One table with all the rows."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        table = EmbeddingBagConfig(
            name="all", embedding_dim=dim, num_embeddings=rows, feature_names=["row"]
        )
        self.ebc = EmbeddingBagCollection(tables=[table])

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        return self.ebc(features).values()


class FiveBags(nn.Module):
    """Plain torch: arithmetic on codes, five bags with sparse gradients."""

    def __init__(self, codes: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)
            for rows in (CODES, CODES, CODES, CODES**2, CODES**2)
        )

    def forward(self, items: Tensor, offsets: Tensor) -> Tensor:
        first, second, third = self.codes.index_select(0, items).long().unbind(1)
        rows = [first, second, third, first * CODES + second, second * CODES + third]
        return torch.cat([bag(r, offsets) for bag, r in zip(self.bags, rows, strict=True)], dim=1)


def sharded(model: nn.Module) -> nn.Module:
    path, ebc = next((p, m) for p, m in model.named_modules() if type(m) is EmbeddingBagCollection)
    apply_optimizer_in_backward(torch.optim.SGD, ebc.parameters(), {"lr": RATE})
    ways = {config.name: table_wise(rank=0) for config in ebc.embedding_bag_configs()}
    plan = construct_module_sharding_plan(ebc, ways, world_size=1, local_size=1, device_type="cpu")
    return DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=ShardingPlan({path: plan}),
        sharders=[EmbeddingBagCollectionSharder()],
    )


def lookups(*, items: int, size: int, bag: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, CODES, (items, 3), dtype=np.int32)
    table = SIDTable(np.arange(items), codes, spec=SIDSpec((CODES,) * 3))
    expander = SIDExpander({"item": RawIDSource("item", SIDLookup(table))})
    ours = sharded(Expanded(expander, dim))
    theirs = FiveBags(torch.from_numpy(codes), dim)
    limit = sharded(OneLookup(3 * CODES + 2 * CODES**2, dim))
    sgd = torch.optim.SGD(theirs.parameters(), lr=RATE)
    offsets, gradient = torch.arange(size) * bag, torch.randn(size, 5 * dim)

    def peer(items: Tensor) -> Tensor:
        sgd.zero_grad()
        pooled = theirs(items, offsets)
        pooled.backward(gradient)
        sgd.step()
        return pooled

    def example(which: Tensor) -> tuple[KeyedJaggedTensor, KeyedJaggedTensor, Tensor]:
        lengths = torch.full((size,), bag, dtype=torch.int32)
        rows = all_rows(torch.from_numpy(codes)[which])
        return (
            KeyedJaggedTensor.from_lengths_sync(keys=["item"], values=which, lengths=lengths),
            KeyedJaggedTensor.from_lengths_sync(
                keys=["row"], values=rows, lengths=lengths.repeat(5)
            ),
            which,
        )

    batches = [example(torch.from_numpy(rng.integers(0, items, size * bag))) for _ in range(4)]
    check(ours, theirs, peer, batches[0], gradient)
    one = torch.randn(5 * size, dim)
    calls: dict[str, Callable[[int], object]] = {
        "one fused lookup": lambda turn: limit(batches[turn][1]).backward(one),
        "sidrank": lambda turn: ours(batches[turn][0]).backward(gradient),
        "five EmbeddingBag": lambda turn: peer(batches[turn][2]),
    }
    seconds = interleaved(calls, rounds, len(batches))
    return [
        {
            "step": name,
            "items a row": bag,
            "dim": dim,
            "milliseconds": 1000 * value,
            "ratio": value / seconds["one fused lookup"],
            "peer": seconds["five EmbeddingBag"] / value,
        }
        for name, value in seconds.items()
    ]


def all_rows(codes: Tensor) -> Tensor:
    """Row ids of the five resolutions, in one table with all rows."""
    first, second, third = codes.long().unbind(1)
    pairs = [first * CODES + second, CODES**2 + second * CODES + third]
    return torch.cat([first, CODES + second, 2 * CODES + third, *(3 * CODES + p for p in pairs)])


def check(
    ours: nn.Module,
    theirs: FiveBags,
    peer: Callable[[Tensor], Tensor],
    batch: tuple[KeyedJaggedTensor, KeyedJaggedTensor, Tensor],
    gradient: Tensor,
) -> None:
    """The same weights give the same outputs, before a step and after it."""
    state = {name: value for name, value in ours.state_dict().items() if "sid_" in name}
    for bag, label in zip(theirs.bags, ("1", "2", "3", "1_2", "2_3"), strict=True):
        (table,) = [value for name, value in state.items() if f".sid_{label}." in name]
        (shard,) = table.local_shards()
        with torch.no_grad():
            shard.tensor[1:].copy_(bag.weight)  # row 0 is that of the unknown item
    for _ in range(3):
        pooled = ours(batch[0])
        pooled.backward(gradient)
        torch.testing.assert_close(pooled, peer(batch[2]), rtol=1e-4, atol=1e-4)


def interleaved(
    calls: dict[str, Callable[[int], object]], rounds: int, batches: int = 1
) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call(turn % batches)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def units(*, items: int, levels: tuple[int, ...], merges: int, rounds: int) -> dict[str, Any]:
    """Seconds to learn merges from a million items, and items a second that are spelled."""
    rng = np.random.default_rng(0)
    columns = [(size * rng.random(items) ** 2).astype(np.int32) for size in levels]
    table = SIDTable(np.arange(items), np.stack(columns, axis=1), spec=SIDSpec(levels))
    shown = (1e6 / (1 + rng.permutation(items))).astype(np.int64) + 1
    start = time.perf_counter()
    bpe = SIDBPE.train(table, shown, max_units=sum(levels) + merges)
    trained = time.perf_counter() - start
    assert bpe.num_units == sum(levels) + merges
    start = time.perf_counter()
    source = RawIDSource("item", SIDLookup(table))
    expander = SIDExpander({"item": source}, mode=bpe, max_rows=bpe.num_units)
    built = time.perf_counter() - start
    lookup, wanted = expander.sources[0].lookup, torch.from_numpy(rng.integers(0, items, items))
    spelled = torch.from_numpy(bpe.encode(table.codes))
    assert np.array_equal(bpe.decode(spelled), table.codes)
    assert torch.equal(lookup(wanted), spelled[wanted])
    lengths = torch.ones(items, dtype=torch.int32)
    batch = KeyedJaggedTensor.from_lengths_sync(keys=["item"], values=wanted, lengths=lengths)
    calls: dict[str, Callable[[int], object]] = {
        "spelled from codes": lambda _: bpe.encode(table.codes),
        "looked up by id": lambda _: lookup(wanted),
        "looked up and put into a batch": lambda _: expander(batch),
    }
    seconds = interleaved(calls, rounds)
    return {
        "items": items,
        "levels": levels,
        "merges": merges,
        "train_seconds": trained,
        "build_seconds": built,
        "units_per_exposure": unit_usage(bpe, table, shown).units_per_exposure,
        "encode": [
            {"way": name, "items_per_second": items / value} for name, value in seconds.items()
        ],
    }


def tiers(*, rounds: int) -> dict[str, Any]:
    """Milliseconds until the token of a history is there that grew by one behaviour."""
    rows, width, codes, num_tiers = 4, 32, 256, 10
    generator = torch.Generator().manual_seed(0)
    histogram = TierHistogram(
        prototypes=torch.randn(codes, width, generator=generator), num_tiers=num_tiers
    )
    token = SIDTierToken(histogram=histogram, dim=64)
    found = []
    with torch.no_grad():
        for length in HISTORIES:
            history = torch.randn(rows, length + 1, width, generator=generator)
            mask = torch.ones(rows, length + 1, dtype=torch.bool)
            event, cached = history[:, -1], histogram(history[:, :-1], mask[:, :-1])
            assert torch.equal(histogram.add(cached, event), histogram(history, mask))
            calls: dict[str, Callable[[int], object]] = {
                "added": lambda _, counts=cached, one=event: token.from_counts(
                    histogram.add(counts, one)
                ),
                "counted anew": lambda _, all_=history, real=mask: token(all_, real),
            }
            seconds = interleaved(calls, rounds)
            found.append({"length": length, **{n: 1000 * s for n, s in seconds.items()}})
    lengths = np.log([row["length"] for row in found])
    slopes = {
        name: float(np.polyfit(lengths, np.log([row[name] for row in found]), 1)[0])
        for name in ("added", "counted anew")
    }
    return {"rows": rows, "codes": codes, "tiers": num_tiers, "lengths": found, "slope": slopes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rows: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for bag, dim in SHAPES:
            found = lookups(
                items=options.items, size=options.batch, bag=bag, dim=dim, rounds=options.rounds
            )
            rows += [{"threads": threads, **row} for row in found]
    dist.destroy_process_group()
    report = {
        "command": f"python -m benchmarks.sid_expansion --rounds {options.rounds}",
        "items": options.items,
        "batch": options.batch,
        "codes": CODES,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
        "units": units(items=options.items, levels=(4096,) * 5, merges=4096, rounds=5),
        "tiers": tiers(rounds=options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
