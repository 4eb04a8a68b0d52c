"""LIDC-IDRI slices with lung and nodule masks."""
