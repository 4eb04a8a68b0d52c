"""Metrics as pure functions, each with the protocol that its value depends on."""
