"""A config's values are refused by their type and range before they cost anything."""

import importlib
import json
import os
import subprocess
import sys
import time

import pytest

from jax_pix2pix import config_fields
from jax_pix2pix.errors import ConfigError, WorkdirError
from jax_pix2pix.runs import workdir
from jax_pix2pix.runs.workdir_files import flat, read_config
from tests import commands, peak_memory
from tests.test_configs import VARIANTS

NAN, INFINITE = float("nan"), float("inf")


def _configs():
    for name, variants in VARIANTS.items():
        for variant in ("", *variants):
            yield importlib.import_module(f"configs.{name}").get_config(variant)


def test_every_field_of_every_config_has_a_type_and_a_range():
    found = set()
    for config in _configs():
        config_fields.check(config.to_dict())
        config_fields.check(json.loads(config.to_json()))
        found |= {field for field, _ in flat(config.to_dict())}
    others = {field for field in found if field.endswith(("_weight", *config_fields.PAIRS))}
    others |= {field for field in found if field.startswith("evaluation.regions.")}
    assert found - others == config_fields.VALUES


def _wrong():
    """(field, value, what is said of it) for each field of the pix2pix systems."""
    config = importlib.import_module("configs.mri2ct").get_config()
    for field, value in flat(config.to_dict()):
        others = [None, [1], "x" * 5000, {"a": 1}]
        if isinstance(value, bool):
            others += [0, 1.0, "true"]
        elif isinstance(value, int | float):
            others += [NAN, INFINITE, -INFINITE, True, "1", 10**400, -(10**10)]
            if isinstance(value, int):
                others += [10**18, 2.0]
        elif isinstance(value, str):
            others += [5, True, "a\nb"]
        else:
            if field.endswith(config_fields.PAIRS):
                others += [[0, 1e-300], [-1e37, 1e37], [1e6 - 0.1, 1e6]]
            others += [5, "ab", [1, 2, 3], [2, 1], [NAN, 1], ["1", "2"], list(range(5000))]
        if field == "data.given_spacing_mm":
            others.remove([1, 2, 3])
        yield from ((field, other) for other in others)


def test_other_types_and_other_ranges_are_named():
    config = importlib.import_module("configs.mri2ct").get_config().to_dict()
    count = 0
    for field, value in _wrong():
        *sections, last = field.split(".")
        changed = json.loads(json.dumps(config))
        place = changed
        for section in sections:
            place = place[section]
        place[last] = value
        with pytest.raises(ConfigError) as caught:
            config_fields.check(changed)
        message = str(caught.value)
        assert message.startswith(f"config.{field}") and len(message) < 300, (field, value)
        assert message.isascii() and "\n" not in message and message.count(": use ") < 2
        count += 1
    assert count > 400


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"generator.depth": 10**6}, "generator.depth=1000000: use at most 13"),
        ({"data.depth": 10**6}, "data.depth=1000000: use at most 8192"),
        ({"data.image_size": 200_000}, "data.image_size=200000: use at most 8192"),
        ({"generator.width": 10**9}, "generator.width=1000000000: use at most 16384"),
        ({"data.batch_size": 10**9}, "data.batch_size=1000000000: use at most 1048576"),
        ({"epochs": 10**18}, "epochs=1000000000000000000: use at most 2147483647"),
        ({"epochs": 10**6, "steps_per_epoch": 10**6}, "are more steps than can be counted"),
        ({"data.batch_size": 10**5}, "of config.data.image_size=256 makes batches of more than"),
        ({"data.load_size": 8192, "data.batch_size": 64}, "data.load_size=8192 makes batches of"),
        ({"data.depth": 8192, "data.batch_size": 64}, "makes batches of more than"),
        (
            {"data.image_size": 8192},
            "data.image_size=8192 is above config.data.stored_size=256: use",
        ),
        ({"data.data_dir": 5}, "data.data_dir=5: use a text"),
        ({"optimizer.learning_rate": "x"}, "optimizer.learning_rate='x': use a number"),
        ({"dtype": "float17"}, "dtype='float17': use one of float32, bfloat16, float64"),
        ({"data.source_type": "S99999"}, "data.source_type='S99999': use one of uint8"),
        ({"loss.another_weight": -1.0}, "loss.another_weight=-1.0: use 0 or more"),
        ({"loss.another_weight": "1"}, "loss.another_weight='1': use a number, 0 or more"),
        ({"noise_hu": NAN}, "noise_hu=nan: use a finite number"),
        ({"noise_hu": [[[1]]]}, "noise_hu=[[[1]]]: use a finite number, a text"),
        ({"epochs": {}}, "epochs holds fields: use a value"),
        ({"a.b.c.d": 1}, "a.b.c holds fields, which are nested too deeply"),
        ({"a\x1b[2J": 1}, r"'a\x1b[2J': a field has a name of 1 to 64 letters"),
        ({f"field_{i}": i for i in range(1024)}, "has more than 1024 fields"),
    ],
)
def test_what_would_cost_is_refused_within_a_moment(tmp_path, fields, said):
    """In a config, and in the config.json of a workdir from elsewhere."""
    config = json.loads(importlib.import_module("configs.mri2ct").get_config().to_json())
    for field, value in fields.items():
        *sections, last = field.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        config_fields.check(config, config_fields.OPENED_NUMBERS)
    assert said in str(caught.value) and "\x1b" not in str(caught.value)
    with pytest.raises(WorkdirError) as named:
        read_config(tmp_path)
    assert str(named.value) == f"{tmp_path}/config.json: {caught.value}"
    assert time.monotonic() - start < 1


def test_nesting_beyond_the_stack_is_one_line(tmp_path):
    for text in ('{"a": ' * 900 + "1" + "}" * 900, "[" * 200_000, '{"a": ' * 200_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(WorkdirError, match=f"{tmp_path}/config.json"):
            read_config(tmp_path)


def test_a_systems_build_and_training_look_first():
    config = importlib.import_module("configs.mri2ct").get_config()
    with config.unlocked():
        config.generator.depth = 10**6
    with pytest.raises(ConfigError, match="use at most 13"):
        workdir.build_system(config)


def test_networks_beyond_all_memory_are_refused(tmp_path, monkeypatch):
    config = importlib.import_module("configs.mri2ct").get_config()
    config.generator.width, config.steps_per_epoch = 16384, 1
    system = workdir.build_system(config)

    def refused():
        with pytest.raises(ConfigError, match=r"config\.generator has .* above 10,000,000,000"):
            workdir.abstract_state(system, config)

    assert peak_memory.megabytes(refused) < 300
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WorkdirError, match=r"config\.json: config\.generator has "):
        workdir.load_state(tmp_path, "best")
    monkeypatch.setattr(os, "sysconf", lambda name: 2**15)  # pages, and their bytes
    for width, side, gigabytes in ((256, 256, r"\d\.\d"), (64, 8192, r"1\d\.\d")):
        config.generator.width, config.data.image_size = width, side
        (tmp_path / "config.json").write_text(config.to_json())
        refusal = rf"a first level of {gigabytes} GB, and this machine 1\.1 GB of"
        with pytest.raises(WorkdirError, match=refusal):
            workdir.load_state(tmp_path, "best")


@pytest.mark.parametrize("module", ["launch.evaluate", "launch.predict"])
def test_a_command_refuses_before_it_imports_jax(tmp_path, module):
    config = importlib.import_module("configs.mri2ct").get_config("quickstart")
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    config.data.image_size = 200_000
    (tmp_path / "config.json").write_text(config.to_json())
    arguments = [f"--workdir={tmp_path}"]
    if module == "launch.predict":
        arguments += [f"--input={tmp_path}", f"--output={tmp_path}/out"]
    _, err = commands.run(module, *arguments, code=1)
    assert commands.error_line(err).startswith(
        f"error: {tmp_path}/config.json: config.data.image_size=200000: use at most 8192"
    )
    code = (
        "import sys; from jax_pix2pix.errors import WorkdirError\n"
        "from jax_pix2pix.runs.workdir_files import read_config\n"
        f"try: read_config({str(tmp_path)!r})\n"
        "except WorkdirError: sys.exit('jax' in sys.modules)\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=commands.ROOT, check=True, timeout=60)
