"""The losses and validation scores of a run as a picture."""

import os

from jax_pix2pix.logs.metrics_log import read_metrics
from jax_pix2pix.safety import safe_files


def draw_loss_curve(workdir, best_metric):
    """Draws workdir/loss_curve.png from metrics.jsonl: losses above, validation below."""
    # Not above: slow to import, and not needed by the first steps. Needs no display server.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {"train": [], "validation": []}
    for line in read_metrics(workdir):
        if line["split"] in lines:
            lines[line["split"]].append(line)
    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(2, sharex=True)
    names = {"train": ("loss_G", "loss_D"), "validation": (best_metric,)}
    for panel, (split, metrics) in zip(panels, names.items(), strict=True):
        for metric in metrics:
            found = [(line["epoch"], line[metric]) for line in lines[split] if metric in line]
            marker = "." if split == "validation" else None
            panel.plot(*zip(*found, strict=True), label=metric, linewidth=1, marker=marker)
        panel.legend()
        panel.grid(alpha=0.3)
        panel.set_ylabel(split)
    panels[-1].set_xlabel("epoch")
    with safe_files.writing(os.path.join(workdir, "loss_curve.png"), workdir) as file:
        FigureCanvasAgg(figure).print_png(file)
