"""Exact and certified AUC, and exact GAUC, inside TorchRec's ``RecMetricModule``.

TorchRec's own AUC orders tied predictions by row, so it depends on the order of the rows: with
all predictions equal it says 1.0 or 0.0. Its grouped AUC counts a group of one class as 0.5.
These metrics plug in beside them. Import the names and use them as keys of the configuration::

    from sidrank.metrics.torchrec import ExactMetricEnum

    config = MetricsConfig(
        rec_tasks=tasks,
        rec_metrics={
            ExactMetricEnum.AUC: RecMetricDef(rec_tasks=tasks, window_size=10_000_000),
            ExactMetricEnum.GAUC: RecMetricDef(
                rec_tasks=tasks, window_size=10_000_000, arguments={"single_class": "half"}
            ),
        },
    )
    metrics = generate_metric_module(RecMetricModule, metrics_config=config, ...)

``arguments``: for the AUC ``exact`` (False by default: 64 MiB a task, see
:class:`sidrank.metrics.StreamingAUC`; the ends of the certified interval are then reported, too);
for the GAUC ``weighting`` and ``single_class`` of :func:`sidrank.metrics.grouped_auc`. The GAUC
takes its groups, integers, from ``model_out["grouping_keys"]``, as TorchRec's grouped AUC does,
and keeps every row: about 10 bytes each.

What is reported, as float64: ``exact_auc-TASK|lifetime_auc`` and ``|window_auc`` (and
``|lifetime_auc_lower``, ``_upper``), ``exact_gauc-TASK|lifetime_gauc`` and ``|window_gauc``. The
window is the last ``window_size / world_size`` rows of each rank. NaN stands where a metric is
not defined yet because one class is missing. The lifetime is part of ``state_dict()``. Ranks may
hold different numbers of rows, except for ``get_pre_compute_states``, which gathers lists only
if they have one size on all ranks.

Differs from TorchRec: rows of weight zero are left out before anything is checked, other rows
must have labels of 0 or 1 and predictions that are not NaN. Weights that are all 1 count as no
weights; other weights need ``exact=True``.

Shapes: ``[n_tasks, n]`` rows of a batch.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torchrec.metrics.metric_module import REC_METRICS_MAPPING
from torchrec.metrics.metrics_config import RecMetricEnumBase, RecTaskInfo
from torchrec.metrics.metrics_namespace import (
    MetricName,
    MetricNameBase,
    MetricNamespaceBase,
    MetricPrefix,
)
from torchrec.metrics.rec_metric import (
    MetricComputationReport,
    RecMetric,
    RecMetricComputation,
    RecMetricException,
)

from sidrank.metrics._batches import checked_batches
from sidrank.metrics._row_store import scores_of
from sidrank.metrics._row_window import RowWindow
from sidrank.metrics._wire import pack, unpack
from sidrank.metrics.auc import auc
from sidrank.metrics.grouped_auc import GroupAUCs, group_aucs
from sidrank.metrics.streaming_auc import StreamingAUC
from sidrank.metrics.streaming_grouped_auc import StreamingGroupedAUC

__all__ = ["ExactAUCMetric", "ExactGAUCMetric", "ExactMetricEnum"]

_GROUPS = "grouping_keys"
_Stream: TypeAlias = StreamingAUC | StreamingGroupedAUC
_Weighting: TypeAlias = Literal["impressions", "unweighted", "positives"]
_SingleClass: TypeAlias = Literal["skip", "half", "raise"]


class ExactMetricEnum(RecMetricEnumBase):
    """Keys for ``MetricsConfig.rec_metrics``; importing them registers the metrics."""

    AUC = "exact_auc"
    GAUC = "exact_gauc"


class _Namespace(MetricNamespaceBase):
    AUC = "exact_auc"
    GAUC = "exact_gauc"


class _StreamComputation(RecMetricComputation):
    """A stream and a window for each task, which torchmetrics sees as two lists of one tensor.

    torchmetrics gathers, caches, saves and resets what it finds in the attributes it was told
    of. Reading one writes the streams into bytes, assigning one reads them back, so whatever is
    done to the attributes is done to the streams.
    """

    def __init__(self, *args: Any, stream: Callable[[], _Stream], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = stream
        merged, joined = partial(_merged, stream), partial(_joined, self._window_size)
        for name, reduce in (("lifetime", merged), ("window", joined)):
            self._add_state(
                name,
                [],
                add_window_state=False,
                dist_reduce_fx=reduce,
                persistent=name == "lifetime",
            )

    def __hash__(self) -> int:
        return id(self)  # torchmetrics would write all states to hash them

    @property
    def lifetime(self) -> list[Tensor]:
        """All rows."""
        return [_written([stream.state_dict() for stream in self._streams]).to(self.device)]

    @lifetime.setter
    def lifetime(self, wires: list[Tensor]) -> None:
        self._streams = [self._stream() for _ in range(self._n_tasks)]
        for wire in wires:
            for stream, tensors in zip(self._streams, _read(wire), strict=True):
                stream.load_state_dict(tensors)

    @property
    def window(self) -> list[Tensor]:
        """The newest rows."""
        return [_written([window.tensors() for window in self._windows]).to(self.device)]

    @window.setter
    def window(self, wires: list[Tensor]) -> None:
        self._windows = [RowWindow(self._window_size) for _ in range(self._n_tasks)]
        for wire in wires:
            self._windows = [RowWindow.of(tensors, self._window_size) for tensors in _read(wire)]

    @torch.compiler.disable
    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        predictions: Tensor | None,
        labels: Tensor,
        weights: Tensor | None,
        **kwargs: Any,
    ) -> None:
        if predictions is None or weights is None:
            raise RecMetricException("predictions and weights must be given, got None")
        groups = self._groups(kwargs)
        for task, weight in enumerate(weights):
            counts = weight != 0
            if not counts.any():
                continue
            columns: dict[str, Any] = {
                "labels": labels[task][counts],
                "scores": predictions[task][counts],
                "weights": None if bool((weight[counts] == 1).all()) else weight[counts],
            }
            if groups is not None:
                columns["groups"] = groups[counts]
            self._streams[task].update(**columns)
            for batch in checked_batches(**columns):
                self._windows[task].add(batch)

    def _groups(self, kwargs: dict[str, Any]) -> Tensor | None:
        return None

    def _report(
        self, name: MetricNameBase, prefix: MetricPrefix, values: Sequence[float], end: str = ""
    ) -> MetricComputationReport:
        value = torch.tensor(values, dtype=torch.float64, device=self.device)
        return MetricComputationReport(
            name=name, metric_prefix=prefix, value=value, description=end or None
        )


class _AUCComputation(_StreamComputation):
    """Lifetime AUC from a stream, window AUC from the rows."""

    def __init__(self, *args: Any, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, stream=partial(StreamingAUC, exact=exact), **kwargs)
        self._exact = exact

    def _compute(self) -> list[MetricComputationReport]:
        lower, value, upper = zip(*(_ends(stream) for stream in self._streams), strict=True)
        recent: list[float] = []
        for window in self._windows:
            rows = window.rows()
            recent.append(
                auc(rows.positive, scores_of(rows.keys), rows.weights)
                if _both(int(rows.positive.sum()), len(rows.positive))
                else math.nan
            )
        reports = [
            self._report(MetricName.AUC, MetricPrefix.LIFETIME, value),
            self._report(MetricName.AUC, MetricPrefix.WINDOW, recent),
        ]
        if not self._exact:
            reports += [
                self._report(MetricName.AUC, MetricPrefix.LIFETIME, lower, "_lower"),
                self._report(MetricName.AUC, MetricPrefix.LIFETIME, upper, "_upper"),
            ]
        return reports


class _GAUCComputation(_StreamComputation):
    """Lifetime and window GAUC from the rows."""

    def __init__(
        self,
        *args: Any,
        weighting: _Weighting = "impressions",
        single_class: _SingleClass = "skip",
        **kwargs: Any,
    ) -> None:
        group_aucs([0, 1], [0, 1], [0, 0]).mean(weighting=weighting, single_class=single_class)
        super().__init__(*args, stream=StreamingGroupedAUC, **kwargs)
        self._mean = partial(_mean, weighting=weighting, single_class=single_class)

    def _groups(self, kwargs: dict[str, Any]) -> Tensor:
        groups = kwargs.get("required_inputs", {}).get(_GROUPS)
        if groups is None:
            raise RecMetricException(
                f"model_out must have {_GROUPS}, got none (they do not go with fused_update_limit)"
            )
        return groups.reshape(-1)

    def _compute(self) -> list[MetricComputationReport]:
        lifetime = [
            self._mean(stream.group_aucs()) if stream.rows else math.nan
            for stream in self._streams
            if isinstance(stream, StreamingGroupedAUC)
        ]
        recent: list[float] = []
        for window in self._windows:
            rows = window.rows()
            groups: Any = rows.groups
            recent.append(
                self._mean(
                    group_aucs(rows.positive, scores_of(rows.keys), groups, weights=rows.weights)
                )
                if window.total
                else math.nan
            )
        return [
            self._report(MetricName.GAUC, MetricPrefix.LIFETIME, lifetime),
            self._report(MetricName.GAUC, MetricPrefix.WINDOW, recent),
        ]


class ExactAUCMetric(RecMetric):
    """AUC of all rows and of the newest; see the module for what to write."""

    _namespace = _Namespace.AUC
    _computation_class = _AUCComputation


class ExactGAUCMetric(RecMetric):
    """GAUC of all rows and of the newest; see the module for what to write."""

    _namespace = _Namespace.GAUC
    _computation_class = _GAUCComputation

    def _get_task_required_inputs(self, task_config: RecTaskInfo | list[RecTaskInfo]) -> set[str]:
        return {_GROUPS}


REC_METRICS_MAPPING.update(
    {ExactMetricEnum.AUC: ExactAUCMetric, ExactMetricEnum.GAUC: ExactGAUCMetric}
)


def _ends(stream: _Stream) -> tuple[float, float, float]:
    """Lower end, value and upper end of a stream."""
    if not isinstance(stream, StreamingAUC) or not _both(stream.positives, stream.rows):
        return math.nan, math.nan, math.nan
    lower, upper = stream.bounds()
    return lower, stream.compute(), upper


def _both(positives: int, rows: int) -> bool:
    return 0 < positives < rows


def _mean(table: GroupAUCs, *, weighting: _Weighting, single_class: _SingleClass) -> float:
    try:
        return table.mean(weighting=weighting, single_class=single_class)
    except ValueError:
        if single_class == "raise":
            raise
        return math.nan  # no group counts yet


def _written(states: list[dict[str, Tensor]]) -> Tensor:
    """The states of all tasks as bytes."""
    return pack(
        {
            f"{task}/{name}": tensor
            for task, state in enumerate(states)
            for name, tensor in state.items()
        }
    )


def _read(wire: Tensor) -> list[dict[str, Tensor]]:
    """The states of all tasks, from bytes."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in unpack(wire).items():
        task, _, name = key.partition("/")
        states.setdefault(task, {})[name] = tensor
    return list(states.values())


def _merged(make: Callable[[], _Stream], wires: list[Tensor]) -> list[Tensor]:
    """Lifetime states of several ranks as one."""
    ranks = [_read(wire) for wire in wires]
    totals = [make() for _ in ranks[0]]
    for states in ranks:
        for total, state in zip(totals, states, strict=True):
            other = make()
            other.load_state_dict(state)
            total.merge(other)  # pyright: ignore[reportArgumentType]
    return [_written([total.state_dict() for total in totals])]


def _joined(size: int, wires: list[Tensor]) -> list[Tensor]:
    """Windows of several ranks as one, which is as long as all of them."""
    ranks = [_read(wire) for wire in wires]
    totals = [RowWindow(size) for _ in ranks[0]]
    for states in ranks:
        for total, state in zip(totals, states, strict=True):
            total.join(RowWindow.of(state, size))
    return [_written([total.tensors() for total in totals])]
