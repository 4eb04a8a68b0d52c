"""Images and volumes in NumPy: files, geometry, planes, resizing, intensities, body masks."""
