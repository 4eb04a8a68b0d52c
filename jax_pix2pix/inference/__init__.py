"""Applies trained runs to inputs: a `Run`, and a predictor for each kind of run."""
