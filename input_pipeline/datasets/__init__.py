"""One folder per data set: its layout on disk, and how its records are read."""
