"""Measures what a step, a convolution or the input costs on this machine."""
