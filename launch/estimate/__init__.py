"""Estimates memory, bytes and time on chips that are not there, from a compiled program."""
