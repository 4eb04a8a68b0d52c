"""Shared parts of the preparation of all data sets: builders, folders, tables, patients."""
