"""Losses: terms of images and logits, penalties, and distances by frozen networks."""
