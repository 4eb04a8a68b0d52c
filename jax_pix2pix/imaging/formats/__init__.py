"""Volumes as scanners and annotators leave them: NIfTI, MetaImage, NRRD, DICOM. No TensorFlow."""
