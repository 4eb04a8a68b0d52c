"""The flagship and its data, small enough for a test."""

from configs.lidc_mask2ct import get_config


def tiny_config():
    config = get_config()
    config.steps_per_epoch = 10
    config.generator.width = config.discriminator.width = 4
    config.data.batch_size = 8
    return config


def quickstart_data(data_dir):
    data = get_config("quickstart").data
    data.data_dir = str(data_dir)
    return data


def parameters_with_a_gradient(abstract):
    """[number of G's, number of D's]. A bias before an instance norm has no gradient.

    abstract: the flagship's state of any size, as shapes.
    """
    return [
        sum(
            x.size
            for layer, params in network.params.items()
            for name, x in params.items()
            if name == "kernel" or layer in ends
        )
        for network, ends in (
            (abstract.generator, ("encode_0", "decode_0")),
            (abstract.discriminator, ("level_0", "logits")),
        )
    ]
