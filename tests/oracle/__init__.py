"""Independent reference implementations (PyTorch) that the JAX code is tested against."""
