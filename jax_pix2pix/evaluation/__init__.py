"""Evaluates a trained run on its data: scores, baselines, reports. Nothing here trains."""
