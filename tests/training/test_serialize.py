import json
from dataclasses import dataclass

import flax.linen as nn
import pytest

from t2i_jax.models.mmdit import MMDiT
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.optimizer import AdamW, Constant, Muon
from t2i_jax.training.serialize import ConfigError, decode, differences, encode


class Tiny(nn.Module):
    widths: tuple[int, ...] = (3, 4)
    inner: nn.Module | None = None


@dataclass(frozen=True)
class Holder:
    model: nn.Module
    name: str = "x"


VALUES = [Muon(schedule=Constant(warmup=3)), AdamW(b2=0.5), Mesh(data=4), (1, None, {"a": 2.5})]


@pytest.mark.parametrize("value", VALUES)
def test_a_config_survives_json(value):
    assert decode(json.loads(json.dumps(encode(value)))) == value


def test_a_linen_module_is_its_own_config():
    holder = Holder(Tiny((1, 2), inner=Tiny()))
    assert decode(json.loads(json.dumps(encode(holder))), classes=(Holder, Tiny)) == holder


@pytest.mark.parametrize("path", ["os.system", "builtins.eval", "t2i_jax_evil.Thing", "subprocess.Popen"])
def test_nothing_outside_the_package_is_built(path):
    with pytest.raises(ConfigError, match="not part of t2i_jax"):
        decode({"class": path})


def test_a_function_or_import_of_the_package_is_no_config_class():
    for name in ("encode", "importlib", "Iterator"):
        with pytest.raises(ConfigError, match="defines no config class"):
            decode({"class": f"t2i_jax.training.serialize.{name}"})


def test_an_unknown_field_is_named_with_the_right_one():
    with pytest.raises(ConfigError, match="config.schedule.*no field 'warmpu'; did you mean 'warmup'"):
        decode(encode(AdamW()) | {"schedule": {"class": "t2i_jax.training.optimizer.Cosine", "warmpu": 3}})


def test_an_array_in_a_config_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"config.name is a bytes"):
        encode(Holder(Tiny(), name=b"x"))


def test_differences_name_fields_and_both_values():
    assert list(differences(encode(AdamW(b2=0.9)), encode(AdamW(b2=0.5)))) == [("b2", 0.9, 0.5)]


def test_a_switch_of_an_older_version_is_told_from_the_value_that_took_its_place():
    old = encode(MMDiT()) | {"remat": False}
    with pytest.raises(ConfigError, match=r"config\.remat is false.*Remat: .* by another version") as error:
        decode(old)
    text = str(error.value)
    assert decode(old | {"remat": json.loads(text[text.index("{") :])}) == MMDiT()
