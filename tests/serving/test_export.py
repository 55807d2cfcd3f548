"""A ranker that was exported answers as it did: at any size, without our code, as machine code."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn
from torch._inductor import config
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig

from sidrank.embeddings import RankingRequests
from sidrank.serving import CandidateScorer
from sidrank.serving.compiled_file import check_compiler
from sidrank.serving.export import export_ranker
from sidrank.serving.exported_ranker import load_ranker
from sidrank.serving.int8_tables import int8_tables
from tests.embeddings import hosts
from tests.serving import exports

RANKERS = ["dlrm", "sid_ranker", "token_former", "situation_ctr"]


class Small(nn.Module):
    """Numbers of a user and of an item's words, and the first dense feature."""

    def __init__(self, tasks=2):
        super().__init__()
        user = EmbeddingConfig(
            name="user", num_embeddings=9, embedding_dim=tasks, feature_names=["user"]
        )
        words = EmbeddingBagConfig(
            name="words", num_embeddings=9, embedding_dim=tasks, feature_names=["words"]
        )
        self.users = EmbeddingCollection(tables=[user])
        self.words = EmbeddingBagCollection(tables=[words])

    def rank(self, requests):
        owner = requests.owner()
        user = self.users(requests.features)["user"].values()
        words = self.words(requests.candidates).values()
        return user[owner] + words + requests.dense[owner, :1]


def asked(counts=(2, 0, 3), users=None, words=None):
    """Each candidate has none, one or two words."""
    number = sum(counts)
    return RankingRequests(
        torch.arange(2.0 * len(counts)).view(-1, 2) / 10,
        hosts.jagged({"user": users or [[k % 9] for k in range(len(counts))]}),
        hosts.jagged({"words": words or [[k % 9] * (k % 3) for k in range(number)]}),
        torch.tensor(counts),
    )


def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.mark.parametrize("name", RANKERS)
class TestEveryRanker:
    @pytest.mark.parametrize("counts", exports.COUNTS, ids=str)
    def test_answers_as_before_at_sizes_not_seen(self, served, name, counts):
        model, _, ranker = served(name)
        requests = exports.requests(name, counts)
        with torch.no_grad():
            wanted = model.rank(requests)
        torch.testing.assert_close(ranker.rank(requests), wanted, atol=1e-5, rtol=1e-5)

    def test_no_candidate_at_all(self, served, name):
        _, _, ranker = served(name)
        requests = exports.requests(name, [0, 0])
        assert ranker.rank(requests).shape == (0, len(ranker.tasks))

    def test_in_the_scorer(self, served, name):
        model, _, ranker = served(name)
        requests = exports.requests(name, [3, 0, 8, 1], seed=5)
        found = CandidateScorer(ranker, most_candidates=4).score(requests)
        for one, other in zip(found, CandidateScorer(model).score(requests), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    def test_more_room_changes_nothing(self, served, name):
        _, _, ranker = served(name)
        requests = exports.requests(name, [3, 0, 2])
        tensors = ranker._parts.apart(requests)
        wanted = ranker._program(*tensors)
        tensors[2] = torch.zeros(17, dtype=torch.int8)
        torch.testing.assert_close(ranker._program(*tensors), wanted, atol=1e-6, rtol=1e-6)


ALONE = """
import json, pathlib, sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sidrank", "torchrec", "fbgemm_gpu"):
            raise ImportError(name)

sys.meta_path.insert(0, Nobody())
import safetensors.torch, torch

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
assert manifest["needs"] == []
tensors = safetensors.torch.load_file(folder / "self_test.safetensors")
rank = torch.export.load(folder / "program.pt2").module(check_guards=False).forward
logits = rank(*[tensors[each["name"]] for each in manifest["inputs"]])
assert not [name for name in sys.modules if name.startswith(("sidrank", "torchrec", "fbgemm"))]
print(float((logits - tensors["logits"]).abs().max()), len(logits))
"""


def test_serves_where_sidrank_cannot_be_imported(served, tmp_path):
    _, folder, _ = served("dlrm")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    difference, number = done.stdout.split()
    assert float(difference) < 1e-5
    assert int(number) == sum([3, 0, 7, 1, 2])


class TestManifest:
    def test_says_what_goes_in(self, served):
        model, folder, _ = served("dlrm")
        told = json.loads((folder / "manifest.json").read_text())
        inputs = {each["name"]: each for each in told["inputs"]}
        assert inputs["dense"] == {
            "name": "dense",
            "dtype": "float32",
            "shape": ["requests", hosts.DENSE],
        }
        assert inputs["item.lengths"]["shape"] == ["candidates"]
        assert inputs["history.values"]["shape"] == ["history.values"]
        assert set(told["sids"].values()) == {hosts.sid_table().content_hash}
        assert all(path in dict(model.named_modules()) for path in told["sids"])
        assert told["tasks"] == ["task_0"]
        assert told["torch"] == torch.__version__
        assert told["needs"] == []

    def test_who_reads_one_file_of_the_folder_reads_all(self, served):
        _, folder, _ = served("dlrm")
        assert len({file.stat().st_mode for file in folder.iterdir()}) == 1

    def test_sizes_that_belong_together_have_one_name(self, served):
        sizes = {
            each["name"]: each["shape"][0] for each in served("token_former")[2].manifest["inputs"]
        }
        assert sizes["item.values"] == sizes["kind.values"] == "candidates"
        assert sizes["user.values"] == "user.values"

    def test_the_self_test_is_what_the_model_gave(self, served):
        model, folder, _ = served("situation_ctr")
        _, requests = exports.ranker("situation_ctr")
        with torch.no_grad():
            wanted = model.rank(requests)
        found = safetensors.torch.load_file(folder / "self_test.safetensors")["logits"]
        assert torch.equal(found, wanted)


def test_compiled_with_int8_tables(tmp_path):
    try:
        check_compiler()
    except ValueError as error:
        pytest.skip(str(error))
    model = int8_tables(small())
    folder = tmp_path / "small"
    export_ranker(model, asked(), folder, tasks=["click", "buy"], compiled=True)
    ranker = load_ranker(folder, compiled=True, runners=2)
    for counts in ([1], [5], [0, 1], [3, 3], [0, 2, 70]):
        requests = asked(counts)
        with torch.no_grad():
            wanted = model.rank(requests)
        torch.testing.assert_close(ranker.rank(requests), wanted, atol=1e-5, rtol=1e-5)
    for wrong in ([[9]], [[-1]]):
        with pytest.raises((RuntimeError, IndexError)):
            ranker.rank(asked([1], users=wrong))
        with pytest.raises((RuntimeError, IndexError)):
            ranker.rank(asked([1], words=wrong))
    exports.signed_anew(folder, processor={"machine": "abacus", "vectors": "none"})
    with pytest.raises(
        ValueError, match=r"compiled.pt2 must be compiled for processor .*, got .*abacus"
    ):
        load_ranker(folder, compiled=True)
    assert load_ranker(folder).rank(asked()).shape == (5, 2)


class Fixed(Small):
    def rank(self, requests):
        if requests.candidates.stride() == 11:  # what it happens to be traced with
            return super().rank(requests)
        return super().rank(requests) + 1


class Torn(Small):
    def rank(self, requests):
        logits = super().rank(requests)
        return logits + 1 if bool((logits > 0).any()) else logits


class Flighty(Small):
    def rank(self, requests):
        return super().rank(requests) + (0.0 if torch.compiler.is_compiling() else 1.0)


class Short(Small):
    def rank(self, requests):
        return super().rank(requests)[1:]


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "told"),
        [
            (Torn, "model must be one that torch.export can trace, got"),
            (Fixed, "model must take any size of words.lengths, got one that was traced for 11"),
            (Flighty, "the exported program must pass its self-test: logit . of task_. must be"),
            (Short, r"model must give logits of shape \[5, M\], got \[4, 2\]"),
        ],
    )
    def test_models(self, tmp_path, model, told):
        with pytest.raises(ValueError, match=told):
            export_ranker(model().eval(), asked(), tmp_path / "ranker")
        assert list(tmp_path.iterdir()) == []

    def test_no_ranker(self, tmp_path):
        with pytest.raises(TypeError, match="model must have a method rank, got Linear"):
            export_ranker(nn.Linear(2, 1).eval(), asked(), tmp_path / "ranker")

    def test_a_model_that_trains(self, tmp_path):
        with pytest.raises(ValueError, match="model must be in evaluation mode"):
            export_ranker(Small(), asked(), tmp_path / "ranker")

    def test_logits_that_are_not_finite(self, tmp_path):
        model = small()
        with torch.no_grad():
            model.users.embeddings.user.weight[0, 1] = torch.nan
        with pytest.raises(ValueError, match="model must give finite logits of requests, got 2"):
            export_ranker(model, asked(), tmp_path / "ranker")

    def test_requests_that_ask_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="requests must have at least one candidate, got none"):
            export_ranker(small(), asked([0, 0]), tmp_path / "ranker")

    @pytest.mark.parametrize("tasks", [["click"], ["click", "click"], ["a", "b", "c"]])
    def test_tasks(self, tmp_path, tasks):
        with pytest.raises(ValueError, match="tasks must be 2 different names, got"):
            export_ranker(small(), asked(), tmp_path / "ranker", tasks=tasks)

    def test_a_folder_that_is_there(self, tmp_path):
        with pytest.raises(ValueError, match="folder must not exist yet, got"):
            export_ranker(small(), asked(), tmp_path)

    def test_no_compiler(self, tmp_path):
        with (
            config.patch({"cpp.cxx": ("/nowhere/c++",)}),
            pytest.raises(ValueError, match=r"compiled must be False without a C.. compiler"),
        ):
            export_ranker(small(), asked(), tmp_path / "ranker", compiled=True)
        assert list(tmp_path.iterdir()) == []
