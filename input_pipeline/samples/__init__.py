"""Embedded chest CT slices, and `make`, the script they come from (see README.md here)."""
