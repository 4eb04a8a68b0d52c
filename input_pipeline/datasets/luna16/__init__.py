"""Chest CT volumes: LUNA16, with its lung masks."""
