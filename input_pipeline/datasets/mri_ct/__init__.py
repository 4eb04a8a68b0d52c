"""Pairs of MR, or cone beam CT, and CT: registered volumes or paired pictures."""
