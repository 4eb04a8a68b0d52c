"""What `launch.predict` does with pictures of MR: pictures of synthetic CT, of their own size."""

import numpy as np
import tqdm
from PIL import Image

from input_pipeline.mri_ct.intensity import hu_to_grey
from input_pipeline.mri_ct.pictures import stored_source
from input_pipeline.planes import native
from input_pipeline.resizing import evaluation_image
from input_pipeline.safe_io import read_picture
from launch import predict_inputs
from launch.predict_files import replacing
from launch.predict_synthesis import compiled


def predict(config, system, generator, source, output):
    """Writes a synthetic CT of each picture, one picture after the other.

    Args:
        config, system, generator: of the run, which is 2D without neighbouring slices.
        source: a picture, or a folder of them at any depth.
        output: see `launch.predict` for what is written there.

    Raises:
        DataError: there are no pictures but of CTs, or one cannot be read.
    """
    paths = predict_inputs.mr_pictures(source, output)
    outputs = compiled(system, config.data)
    for path, result in tqdm.tqdm(paths, unit="picture"):
        grey = read_picture(path)
        (hu,) = np.asarray(outputs(generator, prepared(grey, config.data)[None]))
        hu = native(hu[..., 0], grey.shape)
        with replacing(result) as temporary:
            Image.fromarray(hu_to_grey(hu, config.data.image_window_hu)).save(temporary)
        tqdm.tqdm.write(result)


def prepared(grey, data):
    """A picture as preparation and evaluation make it. uint8 [h, w] -> uint16 [S, S, 1]."""
    return evaluation_image(stored_source(grey, data.stored_size), data.image_size)
