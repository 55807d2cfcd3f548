"""An exported ranker, read back: it passes its self-test or it is not there.

It is a ranker as ``CandidateScorer`` wants one. Requests are checked where eager code would have
met what is wrong with them: names, dtypes, and that features which belong together have as many
ids. An id beyond its table raises, as it does in the model.

Shapes: ``N`` candidates, ``M`` tasks.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from sidrank.embeddings import RankingRequests
from sidrank.semantic_ids import SIDTable, SIDVersionError
from sidrank.serving import self_test
from sidrank.serving.compiled_file import load_compiled, processor
from sidrank.serving.export import COMPILED, PROGRAM
from sidrank.serving.manifest import read_manifest
from sidrank.serving.program_file import load_program
from sidrank.serving.request_tensors import RequestTensors

__all__ = ["ExportedRanker", "load_ranker"]


class ExportedRanker:
    """Scores requests by an exported program. Made by :func:`load_ranker`.

    Any number of threads may call it.

    Args:
        program: Takes the tensors of the manifest's ``inputs`` and gives logits.
        manifest: What the folder says of it.
    """

    def __init__(self, program: Callable[..., Tensor], manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        self.tasks: list[str] = list(manifest["tasks"])
        features, candidates = (
            tuple((name, dtype) for name, dtype in manifest[side])
            for side in ("features", "candidates")
        )
        self._parts = RequestTensors(manifest["dense"], features, candidates)
        self._names = self._parts.names()
        self._sizes = [each["shape"][0] for each in manifest["inputs"]]
        # where ids are as many as rows, a row is told by its place: it has one, no less, no more
        ends = zip(self._sizes, self._sizes[1:], strict=False)
        self._single = [
            place + 1
            for place, (size, next_size) in enumerate(ends)
            if size == next_size and self._names[place].endswith(".values")
        ]
        self._program = program

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request.

        Args:
            requests: With the features of the manifest, in any order.

        Returns:
            Logits, shape ``[N, M]``.

        Raises:
            ValueError: If a feature is missing or one too many, has another dtype or weights, or
                parts that belong together are not as many.
        """
        tensors = self._parts.apart(requests)
        known: dict[str, tuple[int, str]] = {}
        for name, size, tensor in zip(self._names, self._sizes, tensors, strict=True):
            length, first = known.setdefault(size, (tensor.shape[0], name))
            if tensor.shape[0] != length:
                raise ValueError(
                    f"{name} must be as long as {first}, {length}, got {tensor.shape[0]}"
                )
        for place in self._single:
            if bool((tensors[place] != 1).any()):
                name = self._names[place].removesuffix(".lengths")
                least, most = (int(each) for each in tensors[place].aminmax())
                raise ValueError(f"{name} must have one id a row, got {least} to {most}")
        if requests.candidates.stride() == 0:
            return tensors[0].new_zeros(0, len(self.tasks))
        with torch.inference_mode():
            return self._program(*tensors)


def load_ranker(
    folder: str | os.PathLike[str],
    *,
    compiled: bool = False,
    runners: int = 1,
    sids: SIDTable | str | None = None,
) -> ExportedRanker:
    """Read an exported ranker, check all of it and run its self-test.

    Nothing is unpickled, but a compiled ranker is machine code: load only what you or yours wrote.

    Args:
        folder: What ``export_ranker`` wrote.
        compiled: Serve the machine code; else the exported program.
        runners: Calls that the machine code may answer at the same time; others wait.
        sids: The SID table, or its content hash, that every lookup of the ranker must have been
            exported with; None: any.

    Returns:
        The ranker.

    Raises:
        ValueError: If the folder is damaged or lacks what is asked for, a module that the program
            needs is missing, machine code is of another processor or torch, or the self-test fails.
        SIDVersionError: If the ranker was exported with another SID table.
    """
    if runners < 1:
        raise ValueError(f"runners must be at least 1, got {runners}")
    place = Path(folder)
    manifest = read_manifest(place)
    _check_sids(place, manifest["sids"], sids)
    for name in manifest["needs"]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"{place} must find the module {name}, got {error}") from error
    program: Callable[..., Tensor]
    if compiled:
        program = _compiled(place, manifest, runners)
    else:
        # past a hook that solves for the sizes of each call, which takes longer than the program
        program = load_program(place / PROGRAM).module(check_guards=False).forward
    ranker = ExportedRanker(program, manifest)
    tested = safetensors.torch.load_file(place / self_test.FILE)
    with torch.inference_mode():
        found = program(*[tested[each["name"]] for each in manifest["inputs"]])
    tolerance = manifest["self_test"]["tolerance"]
    self_test.check(found, tested["logits"], ranker.tasks, tolerance, str(place))
    return ranker


def _compiled(place: Path, manifest: Mapping[str, Any], runners: int) -> Callable[..., Tensor]:
    if COMPILED not in manifest["files"]:
        raise ValueError(f"compiled must be False, got a folder without {COMPILED}: {place}")
    here = {"torch": torch.__version__, "processor": processor()}
    for name, found in here.items():
        if manifest[name] != found:
            raise ValueError(
                f"{place / COMPILED} must be compiled for {name} {found}, got {manifest[name]}"
            )
    return load_compiled(place / COMPILED, runners=runners)


def _check_sids(place: Path, known: Mapping[str, str], sids: SIDTable | str | None) -> None:
    if sids is None:
        return
    wanted = sids if isinstance(sids, str) else sids.content_hash
    if not known:
        raise SIDVersionError(f"{place} must be exported with the SID table {wanted}, got none")
    for path, found in known.items():
        if found != wanted:
            raise SIDVersionError(
                f"{place} must be exported with the SID table {wanted}, got {found} in {path}"
            )
