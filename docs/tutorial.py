# %% [markdown]
# # From an embedded sample to a synthetic CT, its scores and a figure
#
# Run the cells in Jupyter, VS Code or Spyder, or all of them with `python docs/tutorial.py`: about
# two minutes on two CPU cores. The sample is a pair of templates, averages of many heads: enough to
# see that all works, and no evidence of accuracy.

# %%
from pathlib import Path

from matplotlib.figure import Figure

import jax_pix2pix
from configs import mri2ct
from input_pipeline import Dataset
from input_pipeline.prepared import SAMPLES
from jax_pix2pix.train import train

FOLDER = Path("tutorial")  # gets the prepared data, the run and the results

# %% [markdown]
# ## Train
#
# A config is a tree of fields, each with its reason beside it in `configs/`. The data set follows
# from `config.data`; the sample is prepared on first use.

# %%
config = mri2ct.get_config("quickstart")
config.data.data_dir = str(FOLDER / "data")
dataset = Dataset(config.data, prepare=True)
print(len(dataset.examples("train")), "slices to learn from,", *dataset.spacing_mm(), "mm apart")
train(config, str(FOLDER / "run"), dataset)

# %% [markdown]
# ## Predict
#
# A run is opened and compiled once and answers many times: paths, volumes, nibabel images, arrays
# with their affine. The result knows where it lies in the patient and shows itself in a notebook.

# %%
run = jax_pix2pix.load(FOLDER / "run", checkpoint="last")
patient = SAMPLES / "brain_templates/Task1/brain/template"
sct = run.predict(patient / "mr.nii.gz", mask=patient / "mask.nii.gz")
sct.save(FOLDER / "sct.nii.gz")
sct.picture().save(FOLDER / "sct.png")
sct  # noqa: B018  in a notebook: the picture

# %% [markdown]
# ## Score
#
# Under every protocol, by its name: the same pair of volumes scores differently under each.

# %%
scores = run.score(sct, patient / "ct.nii.gz")
for name in ("synthrad2023.mae", "synthrad2023.psnr", "synthrad2025.ms_ssim", "bone.dice"):
    print(f"{name:24}{scores[name]:10.3f}")

# %% [markdown]
# The held-out slices beside baselines that need no network, with 95 % intervals by patient. A model
# that is not ahead of `tissue_regression`, a line from MR to HU in each tissue, has learnt nothing
# of use.

# %%
evaluation = jax_pix2pix.evaluate(run, dataset, "test")
print(evaluation.table)
evaluation.save(FOLDER / "evaluation")  # test.json, test.csv, test.html and test.png

# %% [markdown]
# ## A figure
#
# The error in HU, inside the body, of the middle slice.

# %%
ct = jax_pix2pix.read_volume(patient / "ct.nii.gz", "ct").values
middle = len(ct) // 2
error = (sct.values[middle].astype(float) - ct[middle]) * (sct.body[middle] > 0)
figure = Figure((8, 4), layout="constrained")
left, right = figure.subplots(1, 2)
left.imshow(ct[middle], cmap="gray", vmin=-20, vmax=100)
left.set_title("CT, -20 to 100 HU")
shown = right.imshow(error, cmap="RdBu_r", vmin=-50, vmax=50)
right.set_title("synthetic CT - CT")
figure.colorbar(shown, label="HU")
for panel in (left, right):
    panel.set_axis_off()
figure.savefig(FOLDER / "error.png", dpi=150)
