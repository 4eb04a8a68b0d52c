"""Embedded samples, and `make`, the script they come from (see README.md here)."""
