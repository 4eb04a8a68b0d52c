"""launch.train on a faulty device: python -m tests.faults.flipped --flip_at=5 ..."""

import jax
import numpy as np
from absl import flags

from jax_pix2pix import fit
from launch import train
from launch.process import command

_AT = flags.DEFINE_integer("flip_at", 0, "the step after which the last device flips one bit")


def flip(array, device, place=0):
    """The global array, with one bit of the copy on one device flipped."""

    def changed(shard):
        if shard.device != device:
            return shard.data
        values = np.array(shard.data)
        values.reshape(-1).view(np.uint8)[place] ^= 1
        return jax.device_put(values, device)

    shards = [changed(shard) for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def main():
    compile_step = fit.compile_step

    def compile_faulty(*arguments):
        step_function, steps = compile_step(*arguments), []

        def step(state, batch):
            state, metrics = step_function(state, batch)
            steps.append(batch)
            if len(steps) != _AT.value:
                return state, metrics
            params = state.generator.params
            bias = flip(params["decode_0"]["bias"], jax.devices()[-1])
            params = params | {"decode_0": params["decode_0"] | {"bias": bias}}
            return state.replace(generator=state.generator.replace(params=params)), metrics

        return step

    fit.compile_step = compile_faulty
    return train.main()


if __name__ == "__main__":
    command.run(main)
