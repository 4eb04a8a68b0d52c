"""Every config and each of its variants, as it is shipped."""

import importlib

import pytest

from jax_pix2pix.errors import ConfigError
from jax_pix2pix.runs.workdir import build_system, check_sizes
from tests.commands import ROOT

LIVER, MRI2CT = ("as_published", "tumour", "quickstart"), ("as_published", "extended", "quickstart")
VARIANTS = {
    "ct_pyramid_2d": ("as_published", "quickstart"),
    "ct_pyramid_3d": ("as_published", "quickstart"),
    "lidc_mask2ct": ("quickstart",),
    "liver": LIVER,
    "liver_3d": LIVER,
    "lung_segmenter": ("quickstart",),
    "mri2ct": MRI2CT,
    "mri2ct_3d": MRI2CT,
    "xray_lungs": ("as_published", "quickstart"),
}


def test_no_config_is_left_out():
    found = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert found == {*VARIANTS, "base", "__init__"}


def _case(name, variant):
    marks = []
    if variant != "quickstart":
        marks.append(pytest.mark.slow)
    if variant not in ("", "quickstart"):
        marks.append(pytest.mark.long)
    return pytest.param(name, variant, marks=marks)


@pytest.mark.parametrize(
    ("name", "variant"),
    [_case(name, variant) for name, others in VARIANTS.items() for variant in ("", *others)],
)
def test_the_networks_and_the_losses_take_the_images(name, variant):
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    config.steps_per_epoch = 10
    check_sizes(build_system(config), config)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("noise_factor", float("nan"), "noise_factor=nan: use a number, 0 or more"),
        ("noise_factor", -0.5, "noise_factor=-0.5: use 0 or more"),
        ("factor", float("inf"), "factor=inf: use a number, 1.05 to 100"),
        ("factor", 1.0, "factor=1.0: use 1.05 or more"),
        ("max_size", -4, "max_size=-4: use 1 or more"),
    ],
)
def test_a_pyramids_wrong_values_are_named(field, value, said):
    config = importlib.import_module("configs.ct_pyramid_3d").get_config()
    config.pyramid[field], config.steps_per_epoch = value, 1
    with pytest.raises(ConfigError, match=f"config.pyramid.{said}"):
        build_system(config)
