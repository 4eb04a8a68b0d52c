"""What `launch.predict` does with pictures of MR: pictures of synthetic CT, of their own size."""

import os

import numpy as np
import tqdm
from PIL import Image

from input_pipeline.mri_ct.intensity import hu_to_grey
from input_pipeline.mri_ct.layouts import PICTURES
from input_pipeline.mri_ct.pictures import stored_source
from input_pipeline.planes import native
from input_pipeline.raw import volume_file
from input_pipeline.resizing import evaluation_image
from input_pipeline.safe_io import DataError, read_picture
from launch.predict_files import find, replacing, results
from launch.predict_synthesis import compiled

CTS = {"B", "trainB", "valB", "testB"}  # folders of them in the layouts that preparation takes


def are_given(source, output):
    """Whether the source is a picture, or a folder with pictures and without volumes.

    Raises DataError, as `predict_files.find` does.
    """
    _, names = find(source, output, PICTURES + volume_file.ENDINGS)
    return bool(names) and all(name.lower().endswith(PICTURES) for name in names)


def predict(config, system, generator, source, output):
    """Writes a synthetic CT of each picture, one picture after the other.

    Args:
        config, system, generator: of the run, which is 2D without neighbouring slices.
        source: a picture, or a folder of them at any depth.
        output: see `launch.predict` for what is written there.

    Raises:
        DataError: there are no pictures but of CTs, or one cannot be read.
    """
    folder, names = find(source, output, PICTURES)
    if os.path.isdir(source):
        names = [name for name in names if not CTS & set(name.split(os.sep)[:-1])]
    if not names:
        raise DataError(f"{source} holds pictures in {', '.join(sorted(CTS))} only: give the MR's")
    paths = results(source, output, names, (".png",), _result_name)
    outputs = compiled(system, config.data)
    for name, path in tqdm.tqdm(paths.items(), unit="picture"):
        grey = read_picture(os.path.join(folder, name))
        (hu,) = np.asarray(outputs(generator, prepared(grey, config.data)[None]))
        hu = native(hu[..., 0], grey.shape)
        with replacing(path) as temporary:
            Image.fromarray(hu_to_grey(hu, config.data.image_window_hu)).save(temporary)
        tqdm.tqdm.write(path)


def prepared(grey, data):
    """A picture as preparation and evaluation make it. uint8 [h, w] -> uint16 [S, S, 1]."""
    return evaluation_image(stored_source(grey, data.stored_size), data.image_size)


def _result_name(name):
    return f"{os.path.splitext(name)[0]}.png"
