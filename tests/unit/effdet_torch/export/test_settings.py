from __future__ import annotations

from typing import Any

import pytest

from effdet_torch.config import get_config
from effdet_torch.engines.document import plain_profile, profile_from
from effdet_torch.errors import ConfigError
from effdet_torch.export.settings import ExportSettings
from effdet_torch.processing.profiles import PROFILES, Profile

CONFIG = get_config("d0")
OWN = get_config("d0", nms_configs=(("method", "gaussian"), ("sigma", 0.7)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"nms": "soft", "profile": "serving"}, PROFILES["serving"]),
        ({"nms": "soft", "profile": "official-eval"}, PROFILES["official-eval"]),
        ({"nms": "hard", "profile": "serving"}, PROFILES["serving-hard"]),
        ({"nms": "hard"}, PROFILES["serving-hard"]),
        ({"nms": "hard", "profile": "serving-hard"}, PROFILES["serving-hard"]),
        ({"nms": "hard", "profile": "official-eval"}, PROFILES["official-eval-hard"]),
    ],
)
def test_the_profile_of_the_file(settings: dict[str, Any], expected: Profile) -> None:
    interface = ExportSettings(**settings).interface(CONFIG)
    assert interface.outputs == "detections"
    assert profile_from(interface.profile) == expected


def test_a_model_s_own_profile_goes_into_the_file() -> None:
    assert profile_from(ExportSettings(nms="soft").interface(OWN).profile).sigma == 0.7
    assert profile_from(ExportSettings(nms="hard").interface(OWN).profile).sigma == 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"profile": "serving"}, "profile serving has no effect without NMS"),
        ({"nms": "soft", "profile": "serving-hard"}, "the profile serving-hard uses hard NMS; pass --nms hard"),
        ({"nms": "hard", "profile": "object-detection-api"}, "object-detection-api end at the border of every image"),
        ({"nms": "soft", "profile": "hart"}, "unknown postprocessing profile 'hart'"),
    ],
)
def test_profiles_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ExportSettings(**settings).interface(CONFIG)


def test_int8_takes_bytes() -> None:
    interface = ExportSettings(precision="int8").interface(CONFIG)
    assert (interface.pixels, interface.precision) == ("uint8", "int8")
    assert ExportSettings().interface(CONFIG).pixels == "normalized"


@pytest.mark.parametrize("profile", PROFILES.values())
def test_profiles_survive_json(profile: Profile) -> None:
    values = plain_profile(profile)
    assert profile_from(values) == profile
    assert all(value is None or abs(value) < 1e9 for value in values.values() if isinstance(value, float | None))


@pytest.mark.parametrize("values", [{}, {"sigma": "much", "score_threshold": 0.1}, {"score_threshold": None, "x": 1}])
def test_what_is_not_a_profile(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not a profile"):
        profile_from(values)


def test_sizes_of_the_file() -> None:
    assert ExportSettings().interface(CONFIG).image_size == (512, 512)
    assert ExportSettings(image_size=(384, 640)).interface(CONFIG).image_size == (384, 640)
    assert ExportSettings(image_size=None).interface(CONFIG).image_size is None
