"""The systems by name: SYSTEMS[config.system](config) -> System."""

from jax_pix2pix.systems import ct_pyramid, lidc_mask2ct, liver, mri2ct, xray_lungs

SYSTEMS = {
    "lidc_mask2ct": lidc_mask2ct.build,
    "xray_lungs": xray_lungs.build,
    "lung_segmenter": xray_lungs.build,  # the same in 3D, of CT
    "liver": liver.build,
    "mri2ct": mri2ct.build,
    "ct_pyramid": ct_pyramid.build,
}
