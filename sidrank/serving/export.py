"""A trained ranker as a folder that serves without the code it was made with.

The way a ranker scores requests (``rank``) is traced by ``torch.export`` for any number of
requests, candidates and ids, and optionally compiled by AOTInductor. The folder::

    program.pt2             the exported program with all weights, for ``torch.export.load``
    compiled.pt2            the same as machine code, if asked for, with the weights once more
    self_test.safetensors   requests, as named tensors, and the ``logits`` they must get
    manifest.json           inputs in order, tasks, hashes of SID tables, versions, digests

``load_ranker`` reads it. So does any process with torch and what the manifest ``needs``, most often
nothing::

    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["needs"]:
        importlib.import_module(name)
    rank = torch.export.load(folder / "program.pt2").module(check_guards=False).forward
    logits = rank(*[tensors[each["name"]] for each in manifest["inputs"]])

(``check_guards=False``: the program is right for one request or one candidate, but a guard that
tracing leaves behind may say that it was traced for more. ``forward``: past a hook that solves for
the sizes of every call, which takes longer than the program.) Sizes that must be equal have one
name in ``inputs``; who calls the program without ``load_ranker`` sees to that himself.

What a served program keeps of the model is frozen: items appended to a SID table later have
unknown codes until the ranker is exported again.

Source: ours. ``torch.export`` and AOTInductor are PyTorch's.

Shapes: ``R`` requests, ``N`` candidates, ``M`` tasks.
"""

import contextlib
import os
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from sidrank._disk import new_folder
from sidrank.embeddings import CodeFeatureSource, RankingRequests
from sidrank.semantic_ids import SIDLookup
from sidrank.serving import self_test
from sidrank.serving.candidate_scorer import Ranks
from sidrank.serving.compiled_file import check_compiler, load_compiled, processor, save_compiled
from sidrank.serving.manifest import write_manifest
from sidrank.serving.plain_operators import in_plain_operators, operators_of
from sidrank.serving.request_tensors import RequestTensors

__all__ = ["COMPILED", "PROGRAM", "export_ranker"]

PROGRAM, COMPILED = "program.pt2", "compiled.pt2"
_OWN = {"aten", "prim", "prims", "quantized"}
_NEEDS = {"fbgemm": "fbgemm_gpu"}


def export_ranker(
    model: nn.Module,
    requests: RankingRequests,
    folder: str | os.PathLike[str],
    *,
    tasks: Sequence[str] | None = None,
    compiled: bool = False,
    tolerance: float = 1e-5,
) -> None:
    """Export a ranker; on any failure nothing is left behind.

    Args:
        model: The ranker, unsharded, on the CPU, in evaluation mode; as it is or of
            ``int8_tables``.
        requests: What it is asked in the self-test: a few real requests, with different numbers of
            candidates and of ids in their bags. Their features are those the folder will serve.
        folder: The folder to make. Its parent must exist.
        tasks: Names of the ``M`` logits; None for ``task_0``, ``task_1``, ...
        compiled: Also compile for this kind of processor; needs a C++ compiler. Its kernels use
            as many threads as torch may where they run.
        tolerance: What logits of the self-test may differ by, as a share of ``1 + |logit|``.

    Raises:
        TypeError: If the model cannot ``rank``.
        ValueError: If the model is in training mode, cannot be traced for any number of requests
            and candidates, or does not answer as it did before; if ``requests`` ask nothing;
            if ``folder`` exists; if there is no compiler.

    Example:
        >>> import tempfile
        >>> from torchrec import KeyedJaggedTensor
        >>> from sidrank.serving.exported_ranker import load_ranker
        >>> class Sum(nn.Module):
        ...     def rank(self, requests):
        ...         shown = requests.candidates["item"].values()
        ...         return (requests.dense[requests.owner(), 0] + shown).unsqueeze(1)
        >>> def features(name, ids):
        ...     return KeyedJaggedTensor(
        ...         [name], torch.tensor(ids), lengths=torch.ones(len(ids)).int())
        >>> asked = RankingRequests(
        ...     torch.tensor([[10.0], [20.0]]), features("user", [7, 8]),
        ...     features("item", [1, 2, 3]), torch.tensor([2, 1]))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     export_ranker(Sum().eval(), asked, f"{place}/sum", tasks=["click"])
        ...     load_ranker(f"{place}/sum").rank(asked).flatten().tolist()
        [11.0, 12.0, 23.0]
    """
    if not callable(getattr(model, "rank", None)):
        raise TypeError(f"model must have a method rank, got {type(model).__name__}")
    if model.training:
        raise ValueError("model must be in evaluation mode, got one that trains: call eval()")
    if compiled:
        check_compiler()
    parts = RequestTensors.of(requests)
    inputs = parts.apart(requests)
    expected = self_test.expected(model, requests)
    names = _task_names(tasks, expected.shape[1])
    with new_folder(Path(folder), "folder") as place, torch.no_grad(), _quiet():
        program = _traced(model, parts, requests)
        found = program.module(check_guards=False)(*inputs)
        self_test.check(found, expected, names, tolerance, "the exported program")
        torch.export.save(program, place / PROGRAM)
        if compiled:
            save_compiled(program, place / COMPILED)
            found = load_compiled(place / COMPILED)(*inputs)
            self_test.check(found, expected, names, tolerance, "the compiled program")
        tested = dict(zip(parts.names(), inputs, strict=True)) | {"logits": expected}
        tested = {name: tensor.contiguous().clone() for name, tensor in tested.items()}
        # not save_file: nobody but its owner could read what that writes
        (place / self_test.FILE).write_bytes(safetensors.torch.save(tested))
        write_manifest(
            place,
            {
                "tasks": names,
                "inputs": _inputs(program, parts.names()),
                "needs": _needs(program),
                "sids": _sids(model),
                "torch": torch.__version__,
                "processor": processor() if compiled else None,
                "self_test": {"tolerance": tolerance},
                "dense": parts.dense,
                "features": [list(each) for each in parts.features],
                "candidates": [list(each) for each in parts.candidates],
            },
        )


class _RankGraph(nn.Module):
    """A ranker that takes plain tensors."""

    def __init__(self, model: Ranks, parts: RequestTensors) -> None:
        super().__init__()
        self.model = model
        self._parts = parts

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model.rank(self._parts.together(tensors))


def _traced(model: nn.Module, parts: RequestTensors, requests: RankingRequests) -> ExportedProgram:
    example = parts.traced(requests)
    graph = _RankGraph(model, parts).eval()  # pyright: ignore[reportArgumentType]
    any_size = tuple({0: Dim.AUTO} for _ in example)
    try:
        # sizes 0 and 1 are sizes like any other
        with cast(Any, symbolic_shapes).patch(backed_size_oblivious=True):
            program = torch.export.export(
                graph, tuple(example), dynamic_shapes=(any_size,), strict=True
            )
            program = in_plain_operators(program)
    except Exception as error:  # torch raises dozens of kinds
        raise ValueError(
            f"model must be one that torch.export can trace, got {type(error).__name__}: {error}"
        ) from error
    for name, kept in zip(parts.names(), _inputs(program, parts.names()), strict=True):
        if isinstance(kept["shape"][0], int):
            raise ValueError(
                f"model must take any size of {name}, got one that was traced for"
                f" {kept['shape'][0]} alone"
            )
    return program


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without warnings that nobody can act upon."""
    with warnings.catch_warnings():
        # of functions that remember: the self-test asks what they would remember
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        # torch, of itself
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        yield


def _inputs(program: ExportedProgram, names: list[str]) -> list[dict[str, Any]]:
    """Name, dtype and shape of each input; equal sizes have the same name."""
    given = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    values = [given[name] for name in program.graph_signature.user_inputs]
    called: dict[str, str] = {}
    # the last input is how many ids each candidate has
    for what, name in (("requests", "counts"), ("most", "room"), ("candidates", names[-1])):
        called[str(values[names.index(name)].shape[0])] = what
    told: list[dict[str, Any]] = []
    for name, value in zip(names, values, strict=True):
        size = value.shape[0]
        known = str(size)
        first = int(known) if known.isdecimal() else called.setdefault(known, name)
        dtype = str(value.dtype).removeprefix("torch.")
        told.append({"name": name, "dtype": dtype, "shape": [first, *map(int, value.shape[1:])]})
    return told


def _needs(program: ExportedProgram) -> list[str]:
    """What must be imported before the program can be read."""
    spaces = {operator.namespace for operator in operators_of(program)}
    return sorted(_NEEDS.get(space, space) for space in spaces - _OWN)


def _sids(model: nn.Module) -> dict[str, str]:
    """Content hash of every SID table a model reads, by the path of what reads it."""
    return {
        path: part.content_hash
        for path, part in model.named_modules()
        if isinstance(part, SIDLookup | CodeFeatureSource) and part.content_hash is not None
    }


def _task_names(tasks: Sequence[str] | None, width: int) -> list[str]:
    names = [f"task_{place}" for place in range(width)] if tasks is None else list(tasks)
    if len(names) != width or len(set(names)) != width:
        raise ValueError(f"tasks must be {width} different names, got {names}")
    return names
