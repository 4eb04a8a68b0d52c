"""The process that measures PyTorch: the oracle's step, as fast as PyTorch can run it fairly.

Each process has one variant: "eager", "channels_last", "compile" (torch.compile of networks and
losses) or "compile_channels_last". Adam is the faster of fused and foreach. Input is normalised
beforehand, which JAX does inside the step. bfloat16 is autocast in the networks; losses are
float32, as in JAX. On GPUs TF32 is allowed where JAX allows it, and cuDNN picks its algorithms by
trial.
"""

import functools
import platform
import time

import numpy as np
import torch
from torch import nn

from jax_pix2pix.errors import BenchmarkError
from launch.benchmark.processes import peak_resident_bytes, serve, timed
from launch.benchmark.torch_settings import configure
from tests.oracle import lidc_mask2ct_torch as oracle
from tests.oracle.training import adam

WARM_UP_STEPS = 3
FIXED = {  # fields for which the oracle has only one form
    "generator.dropout_levels": 3,
    "generator.skips": True,
    "generator.attention_gates": False,
    "generator.self_attention": 0,
    "discriminator.strided_levels": 3,
    "discriminator.dense_levels": 1,
    "discriminator.norm": "instance",
    "discriminator.spectral_norm": False,
    "discriminator.scales": 1,
    "loss.adversarial_weight": 1.0,
    "loss.r1_weight": 0.0,
    "loss.ms_ssim_weight": 0.0,
    "loss.gradient_weight": 0.0,
    "loss.dice_weight": 0.0,
    "loss.structure_weight": 0.0,
    "loss.feature_matching_weight": 0.0,
    "loss.perceptual_weight": 0.0,
    "data.context": 0,
    "diff_augment": "",
    "ema_decay": 0.0,
}


class Autocast(nn.Module):
    """A network that computes in bfloat16 and returns float32."""

    def __init__(self, network, device):
        super().__init__()
        self.network, self.device = network, device

    def forward(self, *images):
        with torch.autocast(self.device, torch.bfloat16):
            output = self.network(*images)
        return [*output[:-1], output[-1].float()] if isinstance(output, list) else output.float()


class Peer:
    def build(self, config, variant, device, tf32):
        """Makes networks, optimisers and a batch, and warms up."""
        _check(config)
        threads = configure(tf32)
        if device == "cuda" and not torch.cuda.is_available():
            raise BenchmarkError("--against=torch: JAX has a GPU, PyTorch none: install its CUDA")
        torch.manual_seed(config["seed"])
        self.device = device
        layout = torch.channels_last if "channels_last" in variant else torch.contiguous_format

        g, d = config["generator"], config["discriminator"]
        generator = oracle.Generator(g["width"], g["depth"], g["norm"], g["dropout"])
        networks = [generator, oracle.Discriminator(d["width"])]
        networks = [x.to(device, memory_format=layout).train() for x in networks]
        self.parameters = [list(x.parameters()) for x in networks]
        if config["dtype"] == "bfloat16":
            networks = [Autocast(x, device) for x in networks]
        if variant.startswith("compile"):
            torch._dynamo.config.suppress_errors = False
            networks = [torch.compile(x, dynamic=False) for x in networks]
            for name in ("generator_loss", "discriminator_loss"):
                setattr(oracle, name, torch.compile(getattr(oracle, name), dynamic=False))
        self.generator, self.discriminator = networks

        shape = (config["data"]["batch_size"], 1, *[config["data"]["image_size"]] * 2)
        rng = np.random.default_rng(0)
        self.mask, self.ct = (
            torch.tensor(rng.uniform(-1, 1, shape), dtype=torch.float32, device=device).to(
                memory_format=layout
            )
            for _ in range(2)
        )
        loss = config["loss"]
        self.options = {
            "adversarial": loss["adversarial"],
            "l1_weight": loss["l1_weight"],
            "ssim_weight": loss["ssim_weight"],
            "clip": loss["ssim"] == "dm_pix",
            "collect": False,
        }
        self.learning_rate = config["optimizer"]["learning_rate"]
        self._optimise_with("foreach")
        try:
            self._step()
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise BenchmarkError(f"torch.compile failed: {reason}") from None
        times = {name: self._adam_seconds(name) for name in ("foreach", "fused")}
        form = min(times, key=lambda name: times[name])
        self._optimise_with(form)
        start = time.perf_counter()
        for _ in range(WARM_UP_STEPS):
            start = time.perf_counter()
            self._step()
        return {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": threads,
            "adam": form,
            "adam_seconds": times,
            "trial_step_seconds": time.perf_counter() - start,
        }

    def _optimise_with(self, form):
        self.optimizers = {
            name: adam(_Parameters(parameters), self.learning_rate, **{form: True})
            for name, parameters in zip(
                ("optimizer_g", "optimizer_d"), self.parameters, strict=True
            )
        }

    def _adam_seconds(self, form):
        """Seconds of the fastest update of both networks with the present gradients."""
        self._optimise_with(form)
        times = []
        for _ in range(3):
            self._synchronise()
            start = time.perf_counter()
            for optimizer in self.optimizers.values():
                optimizer.step()
            self._synchronise()
            times.append(time.perf_counter() - start)
        return min(times)

    def _synchronise(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _step(self):
        oracle.step(
            self.generator,
            self.discriminator,
            self.mask,
            self.ct,
            **self.optimizers,
            **self.options,
        )
        self._synchronise()

    def _forward(self):
        with torch.inference_mode():
            self.generator(self.mask)
        self._synchronise()

    def steps(self, count):
        return timed(self._step, count)

    def generator_forward(self, count):
        for _ in range(WARM_UP_STEPS):
            self._forward()
        return timed(self._forward, count)

    def memory(self):
        if self.device == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated(), "of": "device"}
        return {"bytes": peak_resident_bytes(), "of": "process"}


class _Parameters:
    """The part of a module that `adam` needs."""

    def __init__(self, parameters):
        self.parameters = lambda: parameters


def _check(config):
    for field, value in FIXED.items():
        given = functools.reduce(lambda section, name: section[name], field.split("."), config)
        if given != value:
            raise BenchmarkError(f"config.{field}={given}: the PyTorch peer has {value!r} alone")
    if config["generator"]["norm"] not in ("instance", "none"):
        raise BenchmarkError(
            f"config.generator.norm={config['generator']['norm']}: the PyTorch peer has instance "
            "and none"
        )
    if config["dtype"] not in ("float32", "bfloat16"):
        raise BenchmarkError(
            f"config.dtype={config['dtype']}: the PyTorch peer has float32 and bfloat16"
        )


if __name__ == "__main__":
    peer = Peer()
    serve(
        {
            "build": peer.build,
            "steps": peer.steps,
            "generator": peer.generator_forward,
            "memory": peer.memory,
        }
    )
