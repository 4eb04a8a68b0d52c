"""Volumes as scanners and annotators leave them: NIfTI files and DICOM series. No TensorFlow."""
