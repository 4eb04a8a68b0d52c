"""Workdirs and data in object stores."""
