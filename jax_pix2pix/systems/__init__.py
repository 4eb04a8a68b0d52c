"""The systems by name: each is a function config -> System, of this package or another."""

from importlib import metadata

from jax_pix2pix.errors import lookup
from jax_pix2pix.systems import ct_pyramid, lidc_mask2ct, liver, mri2ct, xray_lungs

SYSTEMS = {
    "lidc_mask2ct": lidc_mask2ct.build,
    "xray_lungs": xray_lungs.build,
    "lung_segmenter": xray_lungs.build,  # the same system in 3D, on CT
    "liver": liver.build,
    "mri2ct": mri2ct.build,
    "ct_pyramid": ct_pyramid.build,
}
GROUP = "jax_pix2pix.systems"  # of entry points, by which other packages add systems


def find_system(name):
    """The function that builds the system of this name.

    An installed package adds its own by an entry point of GROUP. A config names no module, so
    opening a workdir of unknown origin imports only what was installed.

    Raises:
        ConfigError: there is no such system.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    others = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    return lookup(SYSTEMS | others, "system", name).load()
