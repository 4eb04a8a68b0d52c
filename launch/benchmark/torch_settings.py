"""Gives PyTorch the threads and the arithmetic of JAX."""

import torch

from launch.benchmark.report import available_cores


def configure(tf32):
    """-> number of threads. tf32: whether JAX rounds float32 operands to TF32 on GPUs."""
    threads = available_cores()
    torch.set_flush_denormal(True)  # as XLA does
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    return threads
