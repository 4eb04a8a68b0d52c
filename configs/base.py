"""What every system's config has. A system's file overrides values and adds its own fields."""

import ml_collections


def get_base():
    config = ml_collections.ConfigDict()
    config.system = ""  # a key of jax_pix2pix.systems.SYSTEMS
    config.seed = 0  # weights, order of the data, augmentation and dropout all follow from it
    config.dtype = "float32"  # of the computation, or "bfloat16"; parameters are float32

    config.epochs = 200
    config.constant_epochs = 100  # at the full learning rate; then linearly to 0 at the end
    config.steps_per_epoch = 0  # filled in from the data set's size before training

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.b1 = 0.5  # DCGAN: the default 0.9 makes adversarial training oscillate
    config.optimizer.b2 = 0.999

    config.fsdp = 1  # devices that share one copy of the parameters; batches split over all

    config.log_every_steps = 10
    config.text_log_every_epochs = 5
    config.sample_every_epochs = 10
    config.checkpoint_every_epochs = 10  # each after a validation, whose score it carries
    config.keep_last = 2  # checkpoints, beside the best

    config.data = ml_collections.ConfigDict()
    config.data.seed = config.get_ref("seed")
    config.data.data_dir = "data"  # where `launch.prepare` put the prepared data set
    config.data.sample = ""  # an embedded sample to prepare there on the first run
    config.data.batch_size = 64  # global, over all devices and processes
    # Where training images wait; the batches are the same bit for bit. "none" streams them from
    # disk, in memory that does not grow with the data set, and keeps up with most accelerators.
    # "host" decodes and resizes each once, into the memory of each process; "device" into that of
    # each device, where the step gathers them: for an accelerator with few or slow CPU cores.
    config.data.cache = "none"
    config.data.flip = False  # augmentation: mirror left and right
    config.data.load_size = 0  # augmentation: resize to this, crop at random; 0 is off
    config.data.patch_size = 0  # side of what training crops; 0 is image_size
    config.data.depth = 0  # slices of a 3D example; 0 is 2D
    config.data.empty_slices = 1.0  # share of the slices without foreground that training keeps
    config.data.source_channels = 1
    config.data.source_type = "uint8"  # as it is stored; "int16" for Hounsfield units
    config.data.target_type = "uint8"
    return config
