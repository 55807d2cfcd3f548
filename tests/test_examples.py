"""Every example runs, and finds the signal that was planted for it."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name):
    return runpy.run_path(str(EXAMPLES / name))["main"]()


def test_upgrade_dlrm(capsys):
    found = run("upgrade_dlrm.py")
    assert "step 0 bit-equal: True" in capsys.readouterr().out
    assert found["upgraded"]["new items"] > found["host"]["new items"] + 0.02


def test_multimodal_item_ids(capsys):
    found = run("multimodal_item_ids.py")
    hits = [found[name]["hit@10"] for name in ("fusion", "concat", "text only")]
    assert hits[0] > hits[1] + 0.2 > hits[2] + 0.4
    assert f"{hits[0]:.3f}" in capsys.readouterr().out


def test_memorization(capsys):
    found = run("memorization.py")
    assert "items share theirs with another" in capsys.readouterr().out
    assert found["codes + units"]["head"] > found["codes"]["head"] + 0.008
    assert found["codes + units"]["head"] > found["codes + shuffled"]["head"] + 0.005


def test_search_attention(capsys):
    found = run("search_attention.py")
    assert "AUC on new items" in capsys.readouterr().out
    assert found["id + SIDs"] > found["id"] + 0.06
    assert found["id + SIDs"] > found["id + shuffled SIDs"] + 0.06


def test_instance_tokens(capsys):
    found = run("instance_tokens.py")
    assert "host + instances" in capsys.readouterr().out
    assert all(found["host + instances"] > found[name] + 0.06 for name in list(found)[:3])


def test_train_token_former(capsys):
    found = run("train_token_former.py")
    assert "AUC of clicks" in capsys.readouterr().out
    assert found["windows 8, 4"] > found["somebody else's history"] + 0.08


def test_listwise_deadlines(capsys):
    found = run("listwise_deadlines.py")
    assert "nDCG@1" in capsys.readouterr().out
    assert found["NeuralNDCG"]["nDCG@1"] > found["BCE"]["nDCG@1"] + 0.1
    assert found["NeuralNDCG"]["nDCG@1"] > found["NeuralNDCG, shuffled"]["nDCG@1"] + 0.06


def test_situation_ctr(capsys):
    found = run("situation_ctr.py")
    assert "best possible" in capsys.readouterr().out
    likes = {name: values["likes"] for name, values in found.items()}
    assert likes["situations"] > likes["items"] + 0.08
    assert likes["situations"] > likes["situations, dealt anew"] + 0.08


def test_train_distributed(capsys):
    found = run("train_distributed.py")
    assert "auc=" in capsys.readouterr().err
    aucs = [auc for _, auc in found["auc"]]
    assert aucs[-1] > aucs[0] + 0.05


def test_plain_and_hybrid_dlrm(capsys):
    plain, hybrid = run("plain_dlrm.py"), run("hybrid_dlrm.py")
    assert "step 30: loss" in capsys.readouterr().out
    assert hybrid[-1] < plain[-1] - 0.2


def test_export_and_serve(capsys):
    found = run("export_and_serve.py")
    assert "refused: " in capsys.readouterr().out
    assert found["refused"] == 1.0
    assert found["in Python"] > 0.8
    for form in ("exported", "with int8 tables"):
        assert abs(found[form] - found["in Python"]) < 5e-4


def test_serve_while_training(capsys):
    found = run("serve_while_training.py")
    assert "rolled back to version 8" in capsys.readouterr().out
    assert found["same"]
    assert found["finite"]
    assert found["living"] == [8, 9]
    assert found["last"] > found["first"] + 0.08


def test_shard_with_cache(capsys):
    found = run("shard_with_cache.py")
    assert "fused_uvm_caching" in capsys.readouterr().out
    assert found["equal"]
    assert found["went_back"] == 100
    assert found["misses"] > 0.1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_is_short_and_has_a_test(path):
    assert len(path.read_text().splitlines()) <= 150
    assert f'run("{path.name}")' in Path(__file__).read_text()
