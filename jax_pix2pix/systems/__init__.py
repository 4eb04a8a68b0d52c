"""The systems by name: SYSTEMS[config.system](config) -> System."""

from jax_pix2pix.systems import lidc_mask2ct, liver, xray_lungs

SYSTEMS = {
    "lidc_mask2ct": lidc_mask2ct.build,
    "xray_lungs": xray_lungs.build,
    "liver": liver.build,
}
