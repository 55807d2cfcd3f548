"""What must not serve: a folder that is not what was written, and requests that are not its own."""

import json
import shutil
import zipfile

import pytest
import safetensors.torch
import torch

from sidrank.semantic_ids import SIDVersionError
from sidrank.serving.exported_ranker import load_ranker
from tests.embeddings import hosts
from tests.serving import exports


@pytest.fixture
def folder(served, tmp_path):
    return shutil.copytree(served("dlrm")[1], tmp_path / "dlrm")


@pytest.fixture
def ranker(served):
    return served("dlrm")[2]


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "self_test.safetensors")


class TestFolder:
    @pytest.mark.parametrize("name", ["program.pt2", "self_test.safetensors", "manifest.json"])
    def test_any_byte_that_changed(self, folder, name):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        told = "must have SHA-256|must be unaltered, got another checksum|must be whole, got"
        with pytest.raises(ValueError, match=told):
            load_ranker(folder)

    @pytest.mark.parametrize("name", ["program.pt2", "self_test.safetensors"])
    def test_cut_short(self, folder, name):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])
        told = f"{name} must have {len(content)} bytes, got {len(content) - 1}"
        with pytest.raises(ValueError, match=told):
            load_ranker(folder)

    def test_a_manifest_cut_short(self, folder):
        content = (folder / "manifest.json").read_bytes()
        (folder / "manifest.json").write_bytes(content[:-5])
        with pytest.raises(ValueError, match=r"manifest.json must be whole, got"):
            load_ranker(folder)

    def test_a_file_too_few_and_one_too_many(self, folder):
        (folder / "more").touch()
        with pytest.raises(ValueError, match=r"must hold \['program.pt2', .*\], got \['more', "):
            load_ranker(folder)
        (folder / "more").unlink()
        (folder / "program.pt2").unlink()
        with pytest.raises(ValueError, match=r"must hold .*, got \['self_test.safetensors'\]"):
            load_ranker(folder)

    def test_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"folder must be an exported ranker, got .*nowhere"):
            load_ranker(tmp_path / "nowhere")

    def test_another_format(self, folder):
        (folder / "manifest.json").write_text('{"format": "sidrank-ranker-0"}\n')
        with pytest.raises(ValueError, match="must be of format sidrank-ranker-1, got 'sidrank-r"):
            load_ranker(folder)

    def test_a_module_that_is_not_there(self, folder):
        exports.signed_anew(folder, needs=["no_such_module"])
        with pytest.raises(ValueError, match="must find the module no_such_module, got"):
            load_ranker(folder)

    def test_not_compiled(self, folder):
        with pytest.raises(ValueError, match="compiled must be False, got a folder without"):
            load_ranker(folder, compiled=True)

    def test_no_runner(self, folder):
        with pytest.raises(ValueError, match="runners must be at least 1, got 0"):
            load_ranker(folder, runners=0)

    def test_pickled_tensors_are_not_read(self, folder):
        """The entry names a file that would be run; it is refused for what it says alone."""
        old, new = folder / "program.pt2", folder / "other.pt2"
        with zipfile.ZipFile(old) as given, zipfile.ZipFile(new, "w") as made:
            for name in given.namelist():
                content = given.read(name)
                if name.endswith("_weights_config.json"):
                    told = json.loads(content)
                    next(iter(told["config"].values()))["use_pickle"] = True
                    content = json.dumps(told).encode()
                made.writestr(name, content)
        new.replace(old)
        exports.signed_anew(folder)
        with pytest.raises(
            ValueError, match="must hold plain tensors, got pickled objects in prog"
        ):
            load_ranker(folder)

    def test_a_program_that_is_none(self, folder):
        (folder / "program.pt2").write_bytes(b"no archive")
        exports.signed_anew(folder)
        with pytest.raises(ValueError, match=r"must be a program that torch .* reads, got BadZip"):
            load_ranker(folder)


class TestSelfTest:
    def test_poisoned_logits(self, folder):
        tensors = tensors_of(folder)
        tensors["logits"][4, 0] += 1e-3
        poisoned = float(tensors["logits"][4, 0])
        wanted, found = (f"{each:.5g}"[:-1] for each in (poisoned, poisoned - 1e-3))
        safetensors.torch.save_file(tensors, folder / "self_test.safetensors")
        exports.signed_anew(folder)
        told = rf"logit 4 of task_0 must be {wanted}.* of 1 . .logit., got {found}.*\(1 of 13"
        with pytest.raises(ValueError, match=told):
            load_ranker(folder)

    def test_poisoned_requests(self, folder):
        tensors = tensors_of(folder)
        tensors["item_raw.values"] = tensors["item_raw.values"].flip(0)
        safetensors.torch.save_file(tensors, folder / "self_test.safetensors")
        exports.signed_anew(folder)
        with pytest.raises(ValueError, match=r"must pass its self-test: logit .* of 13 differ"):
            load_ranker(folder)

    def test_not_a_number(self, folder):
        tensors = tensors_of(folder)
        tensors["dense"][0, 0] = torch.nan
        safetensors.torch.save_file(tensors, folder / "self_test.safetensors")
        exports.signed_anew(folder)
        with pytest.raises(ValueError, match=r"must pass its self-test: .* got nan \(3 of 13"):
            load_ranker(folder)

    def test_logits_of_another_shape(self, folder):
        tensors = tensors_of(folder)
        tensors["logits"] = tensors["logits"][1:].clone()
        safetensors.torch.save_file(tensors, folder / "self_test.safetensors")
        exports.signed_anew(folder)
        with pytest.raises(
            ValueError, match=r"self-test, got logits of shape \[13, 1\] for \[12, "
        ):
            load_ranker(folder)


class TestSIDs:
    def test_the_table_it_was_exported_with(self, folder):
        assert load_ranker(folder, sids=hosts.sid_table()).tasks == ["task_0"]
        load_ranker(folder, sids=hosts.sid_table().content_hash)

    def test_another_one(self, folder):
        other = hosts.sid_table(seed=1)
        told = f"must be exported with the SID table {other.content_hash}, got .* in model"
        with pytest.raises(SIDVersionError, match=told.replace("in model", "in host")):
            load_ranker(folder, sids=other)

    def test_none(self, folder):
        exports.signed_anew(folder, sids={})
        with pytest.raises(
            SIDVersionError, match=r"must be exported with the SID table .* got none"
        ):
            load_ranker(folder, sids=hosts.sid_table())


def renamed(features, **names):
    return {names.get(key, key): hosts.bags_of(features, key) for key in features.keys()}  # noqa: SIM118


class TestRequests:
    def test_features_in_another_order(self, ranker):
        requests = exports.requests("dlrm", [3, 2])
        other = requests._replace(
            features=hosts.jagged(dict(reversed(renamed(requests.features).items()))),
            candidates=hosts.jagged(dict(reversed(renamed(requests.candidates).items()))),
        )
        assert torch.equal(ranker.rank(other), ranker.rank(requests))

    def test_a_name_that_is_another(self, ranker):
        requests = exports.requests("dlrm", [3, 2])
        other = hosts.jagged(renamed(requests.candidates, item="itme"))
        with pytest.raises(ValueError, match=r"candidates must be \['item', .* got \['itme', "):
            ranker.rank(requests._replace(candidates=other))

    def test_one_too_many_and_one_missing(self, ranker):
        requests = exports.requests("dlrm", [3, 2])
        more = hosts.jagged({**renamed(requests.features), "age": [[1], [2]]})
        with pytest.raises(ValueError, match=r"features must be .* got .*'age'\]"):
            ranker.rank(requests._replace(features=more))
        fewer = renamed(requests.features)
        fewer.pop("user")
        with pytest.raises(ValueError, match=r"features must be \['user', .* got \['history', "):
            ranker.rank(requests._replace(features=hosts.jagged(fewer)))

    def test_ids_of_another_dtype(self, ranker):
        requests = exports.requests("dlrm", [3, 2])
        other = hosts.jagged(renamed(requests.features), dtype=torch.int32)
        with pytest.raises(ValueError, match=r"features must have ids of int64, got torch\.int32"):
            ranker.rank(requests._replace(features=other))

    def test_weights(self, ranker):
        requests = exports.requests("dlrm", [3, 2])
        bags = renamed(requests.features)
        weights = torch.ones(sum(len(bag) for column in bags.values() for bag in column))
        other = hosts.jagged(bags, weights=weights)
        with pytest.raises(ValueError, match="features must have no weights, got some of"):
            ranker.rank(requests._replace(features=other))

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"dense": torch.zeros(2, 4)}, r"dense must be float32 of shape \[2, 3\], got"),
            ({"dense": torch.zeros(2, 3).double()}, "dense must be float32 .* got torch.float64"),
            ({"counts": torch.tensor([5])}, r"counts must have shape \[2\], got \[1\]"),
            ({"counts": torch.tensor([3, 3])}, r"counts must be .* 5 together, got \[3, 3\]"),
            ({"counts": torch.tensor([6, -1])}, r"counts must be .* 5 together, got \[6, -1\]"),
        ],
    )
    def test_parts_that_do_not_fit(self, ranker, changed, told):
        with pytest.raises(ValueError, match=told):
            ranker.rank(exports.requests("dlrm", [3, 2])._replace(**changed))

    def test_candidates_of_two_ids_and_of_none(self, served):
        _, _, ranker = served("token_former")
        requests = exports.requests("token_former", [3, 2])
        bags = renamed(requests.candidates)
        bags["kind"][:2] = [[1, 2], []]
        with pytest.raises(ValueError, match="kind must have one id a row, got 0 to 2"):
            ranker.rank(requests._replace(candidates=hosts.jagged(bags)))
        bags["kind"][1] = [1]
        with pytest.raises(ValueError, match=r"kind.values must be as long as item.*, 5, got 6"):
            ranker.rank(requests._replace(candidates=hosts.jagged(bags)))

    def test_no_request_at_all(self, ranker):
        requests = exports.requests("dlrm", [1])
        none = requests.chosen(*[torch.zeros(0, dtype=torch.int64)] * 3)
        assert ranker.rank(none).shape == (0, 1)

    @pytest.mark.parametrize("wrong", [24, -1])
    def test_ids_beyond_their_table_raise(self, ranker, wrong):
        requests = exports.requests("dlrm", [3, 2])
        bags = renamed(requests.candidates)
        bags["item"][1] = [wrong]
        with pytest.raises((RuntimeError, IndexError)):
            ranker.rank(requests._replace(candidates=hosts.jagged(bags)))
