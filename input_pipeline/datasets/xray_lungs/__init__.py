"""Chest X-rays with masks of the lungs."""
