"""Hides PyTorch from commands: most users have none, and TensorBoard's writer would load it."""

raise ModuleNotFoundError("No module named 'torch'", name="torch")
