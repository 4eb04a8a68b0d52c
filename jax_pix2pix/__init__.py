"""Image-to-image GANs for medical imaging in JAX. Never imports TensorFlow.

    run = jax_pix2pix.load("runs/mri2ct", checkpoint="best")
    sct = run.predict("mr.nii.gz")
    sct.save("sct.nii.gz")
    run.score(sct, "ct.nii.gz")

`load` opens a trained run, which predicts, scores and samples; `evaluate` scores one on its data;
`read_volume` reads a volume of any format; `score_ct` and `score_masks` score what comes from
anywhere. `from jax_pix2pix.train import train` trains.
"""

import importlib

# Imported on first use: `import jax_pix2pix` takes no time, and preparation needs no JAX.
_PUBLIC = {
    "load": "inference.run",
    "Run": "inference.run",
    "Prediction": "inference.prediction",
    "Volume": "imaging.volume",
    "Geometry": "imaging.volume",
    "read_volume": "inference.sources",
    "score_ct": "metrics.sct_scores",
    "score_masks": "metrics.mask_scores",
    "evaluate": "evaluation.evaluate",
    "ConfigError": "errors",
    "DataError": "errors",
    "WorkdirError": "errors",
}


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *_PUBLIC]
