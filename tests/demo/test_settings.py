import json

import pytest

from sidrank.demo.arms import ARMS
from sidrank.demo.protocols import PROTOCOLS
from sidrank.demo.settings import SETTINGS_FILE, read_settings


def test_the_committed_file_has_every_protocol():
    settings = read_settings()
    for protocol in PROTOCOLS:
        assert settings.recipes[protocol]["host"].epochs >= 1
        assert len(settings.vectors[protocol].weights) == 4
        assert settings.regression[protocol] > 0


def test_an_arm_falls_back_on_its_family():
    settings = read_settings()
    tuned = settings.recipes["cold_items"]
    for arm in ARMS[1:]:
        family = "host" if arm.startswith("host") else "hybrid"
        expected = tuned.get(arm) or tuned.get(family) or tuned["host"]
        assert settings.recipe("cold_items", arm) == expected


def test_the_shuffled_control_is_trained_as_the_hybrid():
    settings = read_settings()
    for protocol in PROTOCOLS:
        hybrid, null = (settings.recipe(protocol, a) for a in ("hybrid", "hybrid_shuffled"))
        assert hybrid == null


def test_a_setting_that_does_not_exist(tmp_path):
    stored = json.loads(SETTINGS_FILE.read_text())
    stored["recipes"]["cold_items"]["host"]["momentum"] = 1
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"must only set .*, got .*momentum"):
        read_settings(path)
