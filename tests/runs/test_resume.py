"""Real processes, real signals: a run that was stopped equals one that was not, bit for bit."""

import shutil
import signal

import pytest

from jax_pix2pix.errors import WorkdirError
from jax_pix2pix.runs.workdir_files import claim, read_config
from tests import commands
from tests.faults import runs

pytestmark = pytest.mark.slow
STEPS = 60  # 6 epochs of 10


def _start(workdir, data_dir):
    arguments = commands.tiny_training(workdir, data_dir, epochs=6, constant_epochs=3)
    return commands.start("launch.train", *arguments)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, sample_data_dir):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    commands.finish(_start(workdir, sample_data_dir))
    return workdir


def _assert_equal_runs(a, b):
    runs.assert_equal(a, b)
    texts = [(run / "training_log.txt").read_text(encoding="utf-8") for run in (a, b)]
    assert texts[0].splitlines()[-1] == texts[1].splitlines()[-1]


def test_killed_run_resumes_bit_for_bit(uninterrupted, sample_data_dir, tmp_path):
    process = _start(tmp_path, sample_data_dir)
    runs.wait_for((tmp_path / "checkpoints" / "10").exists, [process])
    process.kill()
    commands.finish(process, -signal.SIGKILL)
    assert not (tmp_path / "checkpoints" / str(STEPS)).exists()

    commands.finish(_start(tmp_path, sample_data_dir))
    _assert_equal_runs(uninterrupted, tmp_path)


@pytest.mark.parametrize(
    "system",
    [
        "xray_lungs",
        pytest.param("liver", marks=pytest.mark.long),
        pytest.param("liver_3d", marks=pytest.mark.long),
        pytest.param("mri2ct", marks=pytest.mark.long),
        pytest.param("mri2ct_3d", marks=pytest.mark.long),
    ],
)
def test_the_other_systems_resume_bit_for_bit(system, tiny_run, sample_data_dir, tmp_path):
    """Their checkpoints also hold batch statistics and spectral norms' vectors.

    They resume after a kill that came when all steps were logged and the last was not yet saved.
    """
    whole, killed = tiny_run(system), tmp_path / "killed"
    shutil.copytree(whole, killed)
    *_, before, last = runs.steps(whole)
    assert 0 < before < last
    shutil.rmtree(killed / "checkpoints" / str(last))

    commands.run("launch.train", *commands.tiny_training(killed, sample_data_dir, system))
    assert runs.steps(killed)[-1] == last
    _assert_equal_runs(whole, killed)


def test_checkpoint_is_of_its_step_although_training_went_on(uninterrupted):
    """The next step overwrites the state's memory while the checkpoint is being written."""
    assert runs.state(uninterrupted)["step"] == STEPS
    steps = runs.steps(uninterrupted)
    assert [int(runs.state(uninterrupted, str(step))["step"]) for step in steps] == steps
    # The last two are kept, and the best if it is another.
    assert steps[-2:] == [50, 60] and len(steps) <= 3


def test_best_checkpoint_is_kept(uninterrupted):
    scores = {line["step"]: line["ssim"] for line in commands.metrics(uninterrupted, "validation")}
    assert sorted(scores) == [10, 20, 30, 40, 50, 60]
    assert (uninterrupted / "checkpoints" / str(max(scores, key=scores.get))).exists()


def test_finished_run_says_so(uninterrupted, sample_data_dir):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    out, _ = commands.finish(_start(uninterrupted, sample_data_dir))
    assert "already finished" in out
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_changed_config_is_refused_with_the_difference(uninterrupted):
    config = read_config(uninterrupted)
    claim(uninterrupted, config)
    config.loss.l1_weight = 10.0
    with pytest.raises(WorkdirError, match=r"loss.l1_weight: 100.0 there, 10.0 now.*another workd"):
        claim(uninterrupted, config)


def test_what_a_run_writes(uninterrupted):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert (uninterrupted / "training_log.txt").read_text().count("\n") == 6
    for epoch in (2, 4, 6):
        with Image.open(uninterrupted / "samples" / f"epoch_{epoch:04d}.png") as picture:
            assert picture.width == 4 * 164 + 4 and picture.height > 8 * 160
    board = EventAccumulator(str(uninterrupted / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    assert len(board.Scalars("train/loss_G")) == STEPS
    assert len(board.Scalars("validation/ssim")) == 6
    assert len(board.Images("samples")) == 3
