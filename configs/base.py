"""The fields of every system's config. A system's file overrides values and adds its own fields."""

import ml_collections


def check_variant(name, variant, known):
    """Raises ValueError for a variant that a config does not know; "" is none."""
    if variant and variant not in known:
        raise ValueError(f'no variant "{variant}" of {name}: use {", ".join(known)} or none')


def get_base():
    config = ml_collections.ConfigDict()
    config.system = ""  # a key of jax_pix2pix.systems.SYSTEMS, or another package's entry point
    config.task = ""  # what the run takes and makes: a key of jax_pix2pix.tasks.kinds.KINDS
    config.seed = 0  # weights, order of the data, augmentation and dropout all follow from it
    config.dtype = "float32"  # of the computation, or "bfloat16"; parameters are float32

    config.epochs = 200
    config.constant_epochs = 100  # at the full learning rate, which then falls linearly to 0
    config.steps_per_epoch = 0  # filled in from the data set's size before training

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.b1 = 0.5  # DCGAN: the default 0.9 makes adversarial training oscillate
    config.optimizer.b2 = 0.999

    # Decay of an average of the generator's weights for evaluation, such as 0.999; not with batch
    # norm.
    config.ema_decay = 0.0
    # Random changes of D's inputs, for few patients: "color", "translation", "cutout", with commas.
    config.diff_augment = ""

    # Random changes of training pairs, drawn in each step; augmentation.py says what each does, and
    # 0 is off. A network meets no other scanner, position and exposure than those it trains on.
    config.augment = ml_collections.ConfigDict()
    config.augment.rotation_degrees = 0.0
    config.augment.scale = 0.0
    config.augment.gamma = 0.0
    config.augment.contrast = 0.0
    config.augment.brightness = 0.0
    config.augment.noise = 0.0
    config.augment.blur = 0.0
    config.augment.share = 0.3  # of the examples, of each change

    # Parts in which a batch goes through the networks, one at a time in memory; gradients are means
    # over them (gradient accumulation). Batch norm and soft Dice then see a part, not the batch.
    config.accumulate = 1
    config.fsdp = 1  # devices that share one copy of the parameters; batches split over all

    config.log_every_steps = 10
    config.text_log_every_epochs = 5
    config.sample_every_epochs = 10
    config.checkpoint_every_epochs = 10  # each after a validation, and with its score
    config.checkpoint_every_steps = 0  # also every N steps, without validation; 0 disables
    config.keep_last = 2  # checkpoints, besides the best

    # Updates with non-finite gradients are skipped; this many steps in a row with one end the run.
    config.max_skipped = 10
    # Updates are also skipped if their loss is this many standard deviations above the mean of the
    # last 128; 0 disables this, 6 skips only spikes.
    config.spike_sigmas = 0.0
    config.watchdog_seconds = 600.0  # without a step, the run exits for a restart; 0 disables
    config.heartbeat_seconds = 30  # if a process sends none, the others end within twice this

    config.data = ml_collections.ConfigDict()
    config.data.seed = config.get_ref("seed")
    config.data.data_dir = "data"  # where `launch.prepare` put the prepared data set
    # Of data_dir in a store: "copy" all to this machine first, or "stream": each process reads only
    # the records of its own rows. "auto" copies what fits on the disk. The batches are the same.
    config.data.from_store = "auto"
    config.data.sample = ""  # an embedded sample to prepare there on the first run
    # Who is held out: patients by name, with commas, as in manifest.csv; or those of one of several
    # folds, into which patients fall by a hash of their names. Without these, whom the source holds
    # out itself, or fractions of the patients.
    config.data.test_patients = ""
    config.data.validation_patients = ""
    config.data.folds = 0
    config.data.fold = 0  # the one that is tested, from 0
    config.data.batch_size = 64  # global, over all devices, processes and accumulated parts
    config.data.accumulate = config.get_ref("accumulate")  # evaluation reads as many at a time
    # Where training images are kept; the batches are the same bit for bit. "none" streams them from
    # disk, in memory that does not grow with the data set, and keeps up with most accelerators.
    # "host" decodes and resizes each once, into the memory of each process. "device" uses that of
    # each device, where the step gathers them: for an accelerator with few or slow CPU cores.
    config.data.cache = "none"
    config.data.flip = False  # augmentation: mirror left and right
    config.data.load_size = 0  # augmentation: resize to this, crop at random; 0 is off
    config.data.patch_size = 0  # side of what training crops; 0 is image_size
    config.data.depth = 0  # slices of a 3D example; 0 is 2D
    config.data.repeat = 1  # times that an epoch uses each training example; for a single scan
    # If a record cannot be read, "raise" ends the run; "skip" trains on the next readable one
    # instead and leaves examples that depend on it out of all scores.
    config.data.on_error = "raise"
    config.data.empty_slices = 1.0  # share of the slices without foreground that training keeps
    # Of volumes whose headers leave it open; files that state it keep their own, and a table in the
    # source folder, geometry.csv, may say it file by file.
    config.data.given_spacing_mm = ()  # between slices, rows and columns
    config.data.given_axes = ""  # where the axes of a file run to, such as LPS
    config.data.geometry = "agreed"  # or "sform", "qform": which counts where a NIfTI's two differ
    config.data.context = 0  # neighbouring slices on each side, as channels of a 2D source
    config.data.source_channels = 1  # as stored
    config.data.source_type = "uint8"  # as stored; "int16" for Hounsfield units
    config.data.target_type = "uint8"
    return config


def add_pix2pix(config):
    """Adds the networks and the losses of systems with a U-Net and a PatchGAN."""
    config.generator = ml_collections.ConfigDict()
    config.generator.width = 64
    config.generator.depth = 6  # halvings
    config.generator.norm = "instance"  # or "batch", "none"
    config.generator.use_bias = True
    config.generator.dropout = 0.5
    config.generator.dropout_levels = 3
    config.generator.skips = True
    config.generator.attention_gates = False  # on the skips
    config.generator.self_attention = 0  # after this many halvings; 0 disables

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.width = 64
    config.discriminator.strided_levels = 3  # with a dense one: receptive field 70
    config.discriminator.dense_levels = 1
    config.discriminator.norm = "instance"
    config.discriminator.spectral_norm = False
    config.discriminator.scales = 1  # networks that see the images at full size, half of it, ...

    # Terms of weight 0 are not computed, but for adversarial and L1. losses/terms.py has formulas.
    config.loss = ml_collections.ConfigDict()
    config.loss.adversarial = "bce"  # or "lsgan", "hinge", "wgan"
    config.loss.adversarial_weight = 1.0
    config.loss.discriminator_weight = 0.5  # of real + fake: D learns half as fast
    config.loss.r1_weight = 0.0  # gradient penalty of D on real images
    config.loss.gradient_penalty_weight = 0.0  # WGAN-GP's, between real and fake; 10 as published
    config.loss.l1_weight = 100.0
    config.loss.ssim_weight = 0.0
    config.loss.ssim = "dm_pix"  # or "unclipped", which has a gradient on flat images
    config.loss.ms_ssim_weight = 0.0
    config.loss.ms_ssim_levels = 4  # 5 levels need images of 176 pixels
    config.loss.gradient_weight = 0.0
    config.loss.dice_weight = 0.0  # of the soft Dice loss, for masks of few pixels
    config.loss.structure_weight = 0.0  # soft Dice of air, soft tissue and bone
    config.loss.feature_matching_weight = 0.0  # a mean over D's layers; pix2pixHD: 10, a sum
    config.loss.perceptual_weight = 0.0
    config.loss.perceptual_weights_file = ""  # of VGG16; layout: losses/perceptual.py
