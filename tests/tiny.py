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
