"""Image-to-image GANs for medical imaging in JAX. Never imports TensorFlow."""
