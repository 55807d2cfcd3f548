import copy
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from torchrec.metrics.metric_module import RecMetricModule, generate_metric_module
from torchrec.metrics.metrics_config import (
    MetricsConfig,
    RecComputeMode,
    RecMetricDef,
    RecMetricEnum,
    RecTaskInfo,
)
from torchrec.metrics.rec_metric import RecMetricException

from sidrank.metrics import auc, grouped_auc
from sidrank.metrics.streaming_auc import StreamingAUC
from sidrank.metrics.torchrec import ExactMetricEnum

WINDOW, BATCH = 200, 64
MODES = [RecComputeMode.UNFUSED_TASKS_COMPUTATION, RecComputeMode.FUSED_TASKS_COMPUTATION]
TASKS = [
    RecTaskInfo(
        name=name, label_name=f"{name}_y", prediction_name=f"{name}_p", weight_name=f"{name}_w"
    )
    for name in ("click", "buy")
]
EXACT = {ExactMetricEnum.AUC: {"exact": True}, ExactMetricEnum.GAUC: {}}


def _module(metrics, mode=MODES[0], world_size=1, **config):
    definitions = {
        metric: RecMetricDef(
            rec_tasks=TASKS, window_size=WINDOW * world_size, arguments=dict(extra)
        )
        for metric, extra in metrics.items()
    }
    return generate_metric_module(
        RecMetricModule,
        metrics_config=MetricsConfig(
            rec_tasks=TASKS, rec_metrics=definitions, rec_compute_mode=mode, **config
        ),
        batch_size=BATCH,
        world_size=world_size,
        my_rank=dist.get_rank() if world_size > 1 else 0,
        state_metrics_mapping={},
        device=torch.device("cpu"),
    )


def _batches(count, weights=(1.0,), seed=0):
    """Batches with ties; the groups come as TorchRec wants them."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        batch = {"grouping_keys": torch.randint(0, 9, (BATCH,), generator=generator)}
        for task in TASKS:
            noise = torch.rand(BATCH, generator=generator)
            label = torch.rand(BATCH, generator=generator) < 0.3
            batch[task.label_name] = label.float()
            batch[task.prediction_name] = ((noise + label) * 10).round() / 20
            drawn = torch.randint(0, len(weights), (BATCH,), generator=generator)
            batch[task.weight_name] = torch.tensor(weights)[drawn]
        batches.append(batch)
    return batches


def _column(batches, name, newest=None):
    return torch.cat([batch[name] for batch in batches])[-newest if newest else 0 :]


def _computed(module):
    return {name: float(value) for name, value in dict(module.compute()).items()}


def _expected(batches, task, newest=None, weighted=False):
    """AUC and GAUC of the rows that have a weight, all of them or the newest."""
    weights = _column(batches, task.weight_name)
    counts = weights != 0
    names = (task.label_name, task.prediction_name, "grouping_keys")
    first = -newest if newest else 0
    labels, scores, groups = (_column(batches, name)[counts][first:] for name in names)
    weights = weights[counts][first:] if weighted else None
    return auc(labels, scores, weights), grouped_auc(labels, scores, groups, weights=weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [(1.0,), (0.0, 1.0), (0.0, 0.5, 2.0)])
def test_lifetime_and_window_equal_one_shot(mode, weights):
    module, batches = _module(EXACT, mode), _batches(10, weights)
    for batch in batches:
        module.update(batch)
    result, weighted = _computed(module), len(weights) == 3
    for task in TASKS:
        everything = _expected(batches, task, weighted=weighted)
        newest = _expected(batches, task, WINDOW, weighted=weighted)
        assert result[f"exact_auc-{task.name}|lifetime_auc"] == everything[0]
        assert result[f"exact_auc-{task.name}|window_auc"] == newest[0]
        assert result[f"exact_gauc-{task.name}|lifetime_gauc"] == everything[1]
        assert result[f"exact_gauc-{task.name}|window_gauc"] == newest[1]
    assert len(result) == 8


@pytest.mark.parametrize("mode", MODES)
def test_the_bounded_form_reports_its_interval(mode):
    module, batches = _module({ExactMetricEnum.AUC: {}}, mode), _batches(10, (0.0, 1.0))
    for batch in batches:
        module.update(batch)
    result = _computed(module)
    for task in TASKS:
        exact, _ = _expected(batches, task)
        for end in ("", "_lower", "_upper"):  # as many distinct scores as these it holds
            assert result[f"exact_auc-{task.name}|lifetime_auc{end}"] == exact


def test_torchrec_itself_is_wrong_on_ties():
    module = _module({RecMetricEnum.AUC: {}, **EXACT})
    labels = torch.tensor([1.0, 0.0]).repeat_interleave(BATCH // 2)
    batch = {"grouping_keys": torch.zeros(BATCH, dtype=torch.int64)}
    for task in TASKS:
        batch |= {task.label_name: labels, task.weight_name: torch.ones(BATCH)}
        batch[task.prediction_name] = torch.full((BATCH,), 0.5)
    module.update(batch)
    result = _computed(module)
    assert result["exact_auc-click|window_auc"] == result["exact_auc-click|lifetime_auc"] == 0.5
    assert result["auc-click|window_auc"] != 0.5
    module.reset()
    for batch in (batches := _batches(3)):
        module.update(batch)
    theirs, ours = (_computed(module)[f"{kind}-click|window_auc"] for kind in ("auc", "exact_auc"))
    assert ours == _expected(batches, TASKS[0], WINDOW)[0]
    assert abs(theirs - ours) > 1e-4


def test_arguments_reach_the_gauc():
    how = {"weighting": "positives", "single_class": "half"}
    module, batches = _module({ExactMetricEnum.GAUC: how}), _batches(2)
    for batch in batches:
        batch["grouping_keys"] = torch.arange(BATCH) // 2
        module.update(batch)
    columns = [_column(batches, name) for name in ("click_y", "click_p", "grouping_keys")]
    result = _computed(module)["exact_gauc-click|lifetime_gauc"]
    assert result == grouped_auc(*columns, **how) != grouped_auc(*columns)
    with pytest.raises(
        ValueError, match="single_class must be 'skip', 'half' or 'raise', got 'no'"
    ):
        _module({ExactMetricEnum.GAUC: {"single_class": "no"}})


def test_no_value_yet_is_nan():
    module = _module(EXACT)
    batch = _batches(1)[0]
    for task in TASKS:
        batch[task.label_name] = torch.zeros(BATCH)
    module.update(batch)
    assert all(math.isnan(value) for value in _computed(module).values())
    strict = _module({ExactMetricEnum.GAUC: {"single_class": "raise"}})
    strict.update(batch)
    with pytest.raises(ValueError, match="must each contain both classes, got one class in group"):
        strict.compute()


def test_what_cannot_be_counted_is_refused():
    module, batch = _module({ExactMetricEnum.AUC: {}}), _batches(1)[0]
    with pytest.raises(ValueError, match="weights must be None where exact is False"):
        module.update({**batch, "click_w": torch.full((BATCH,), 0.5)})
    with pytest.raises(ValueError, match=r"labels must be 0 or 1, got 0\.5 in row 0"):
        module.update({**batch, "click_y": torch.full((BATCH,), 0.5)})
    grouped = _module({ExactMetricEnum.GAUC: {}}, fused_update_limit=1)
    with pytest.raises(RecMetricException, match="model_out must have grouping_keys, got none"):
        grouped.update(batch)
    computation = module.rec_metrics[0]._metrics_computations[0]
    with pytest.raises(RecMetricException, match="predictions and weights must be given, got None"):
        computation.update(predictions=None, labels=torch.zeros(1, 2), weights=torch.zeros(1, 2))


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_keeps_the_lifetime(mode, tmp_path):
    module, batches = _module(EXACT, mode), _batches(6)
    for batch in batches[:3]:
        module.update(batch)
    torch.save(module.state_dict(), tmp_path / "metrics.pt")
    loaded = _module(EXACT, mode)
    loaded.load_state_dict(torch.load(tmp_path / "metrics.pt", weights_only=True))
    for each in (module, loaded):
        for batch in batches[3:]:
            each.update(batch)
    result, expected = _computed(loaded), _computed(module)
    assert {name: value for name, value in result.items() if "lifetime" in name} == {
        name: value for name, value in expected.items() if "lifetime" in name
    }
    copies = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
    module.reset()
    assert all(math.isnan(value) for value in _computed(module).values())
    assert [_computed(each) for each in copies] == [expected, expected]


def test_hashing_a_computation_does_not_write_its_state():
    computation = _module(EXACT).rec_metrics[0]._metrics_computations[0]
    assert hash(computation) == hash(computation) == id(computation)


def _two_ranks(mode, arguments):
    """Rank 1 has half as many batches; then both go on by themselves and compute again."""
    metrics = {ExactMetricEnum.AUC: arguments, ExactMetricEnum.GAUC: {}}
    module = _module(metrics, mode, world_size=2, compute_on_all_ranks=True)
    batches = _batches(8), _batches(4, seed=1)
    results = []
    for half in (0, 1):
        mine = batches[dist.get_rank()]
        for batch in mine[half * len(mine) // 2 : (half + 1) * len(mine) // 2]:
            module.update(batch)
        results.append(_computed(module))
    return results


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", [{"exact": True}, {}])
def test_two_ranks_equal_one_process(ranks, mode, arguments):
    first, second = ranks.run(_two_ranks, mode, arguments)
    assert first == second
    ours = _batches(8), _batches(4, seed=1)
    for half, result in zip((4, 8), first, strict=True):
        rows = [*ours[0][:half], *ours[1][: half // 2]]
        newest = []
        for side in (ours[0][:half], ours[1][: half // 2]):
            newest.append({name: _column(side, name, WINDOW) for name in side[0]})
        for task in TASKS:
            assert result[f"exact_auc-{task.name}|lifetime_auc"] == _expected(rows, task)[0]
            assert result[f"exact_gauc-{task.name}|lifetime_gauc"] == _expected(rows, task)[1]
            assert result[f"exact_auc-{task.name}|window_auc"] == _expected(newest, task)[0]
            assert result[f"exact_gauc-{task.name}|window_gauc"] == _expected(newest, task)[1]


def _nothing_on_one_rank():
    module = _module(EXACT, world_size=2, compute_on_all_ranks=True)
    if dist.get_rank() == 1:
        module.update(_batches(1)[0])
    return _computed(module)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_rank_without_rows_takes_part(ranks):
    first, second = ranks.run(_nothing_on_one_rank)
    expected = _expected(_batches(1), TASKS[0])
    assert first == second
    assert (
        first["exact_auc-click|window_auc"] == first["exact_auc-click|lifetime_auc"] == expected[0]
    )
    assert first["exact_gauc-click|window_gauc"] == expected[1]


def test_the_stream_is_the_one_of_this_library():
    module, batches = _module(EXACT), _batches(2)
    stream = StreamingAUC()
    for batch in batches:
        module.update(batch)
        stream.update(batch["click_y"], batch["click_p"])
    assert _computed(module)["exact_auc-click|lifetime_auc"] == stream.compute()
