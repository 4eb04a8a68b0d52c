"""Configurations: values and their reasons, no logic."""
