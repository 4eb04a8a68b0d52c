"""Batches for training and evaluation."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from input_pipeline import pipeline, prepared
from input_pipeline.dataset import Dataset
from input_pipeline.preparation import builder
from input_pipeline.prepare import prepare
from input_pipeline.tf_cpu import tf
from jax_pix2pix.errors import DataError
from tests import commands
from tests.input_pipeline.conftest import OPTIONS, data_config, read_split, write_slice

AUGMENTED = {"flip": True, "load_size": 20}


@pytest.fixture
def data(source, tmp_path, monkeypatch):
    """15 training slices, in shards of 4."""
    monkeypatch.setattr(builder, "SHARD_SIZE", 4)
    for index in (1, 2):
        write_slice(source, "val", "clean", "LIDC-IDRI-0007", index)
    prepare("lidc_masks", source, tmp_path / "data", **OPTIONS)
    return data_config(tmp_path / "data")


def everything(data, split):
    """The split as TFDS decodes it."""
    directory = prepared.ensure_prepared(data)
    return read_split(directory, split)


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def joined(per_host):
    """Global batches, from the batches of each host."""
    return [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*per_host, strict=True)
    ]


def test_batches_hold_the_records_of_their_indices(data):
    records = everything(data, "train")
    seen = []
    for batch in pipeline.train_batches(data, 0, 3):
        assert batch["source"].dtype == batch["target"].dtype == np.uint8
        assert batch["source"].shape == batch["target"].shape == (4, 16, 16, 1)
        assert batch["index"].dtype == np.int64
        for i, index in enumerate(batch["index"]):
            np.testing.assert_array_equal(batch["source"][i], records[index]["mask"])
            np.testing.assert_array_equal(batch["target"][i], records[index]["image"])
        seen += list(batch["index"])
    assert len(set(seen)) == 12  # an epoch leaves out the 3 of 15 that fill no batch


@pytest.mark.parametrize("fields", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_hosts_share_the_same_global_batches(data, fields):
    data.update(fields)
    whole = list(pipeline.train_batches(data, 0, 7))
    assert len(whole) == 7
    for hosts in (2, 4):
        per_host = [list(pipeline.train_batches(data, 0, 7, h, hosts)) for h in range(hosts)]
        assert_same(joined(per_host), whole)


@pytest.mark.parametrize("fields", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_a_run_resumes_with_the_batches_it_would_have_had(data, fields):
    data.update(fields)
    whole = list(pipeline.train_batches(data, 0, 9))
    for start in (1, 4, 8):
        assert_same(pipeline.train_batches(data, start, 9), whole[start:])
    assert not list(pipeline.train_batches(data, 9, 9))


def test_far_steps_start_at_once(data):
    (batch,) = itertools.islice(pipeline.train_batches(data, 10**9, 10**9 + 1), 1)
    assert batch["source"].shape == (4, 16, 16, 1)


def test_augmentation_is_off_by_default_and_of_both_images(data):
    plain = list(pipeline.train_batches(data, 0, 6))
    data.flip = True
    mirrored = 0
    for batch, out in zip(plain, pipeline.train_batches(data, 0, 6), strict=True):
        np.testing.assert_array_equal(out["index"], batch["index"])
        for i in range(4):
            flip = not np.array_equal(out["target"][i], batch["target"][i])
            mirrored += flip
            for key in ("source", "target"):
                expected = batch[key][i][:, ::-1] if flip else batch[key][i]
                np.testing.assert_array_equal(out[key][i], expected)
    assert 4 <= mirrored <= 20
    data.load_size = 20
    for out in pipeline.train_batches(data, 0, 6):
        assert set(np.unique(out["source"])) <= {0, 127, 254}


def test_an_epoch_may_count_each_example_several_times(data):
    data.repeat = 4
    assert pipeline.num_training_examples(data) == 60
    pipeline.check_training(data)
    seen = [index for batch in pipeline.train_batches(data, 0, 15) for index in batch["index"]]
    assert np.bincount(seen).tolist() == [4] * 15
    assert len(list(pipeline.eval_batches(data, "train"))) == 4
    data.batch_size = 40  # more than there are
    (batch,) = pipeline.train_batches(data, 0, 1)
    assert len(set(batch["index"])) > 10
    data.repeat = 0
    with pytest.raises(DataError, match=r"config\.data\.repeat is 0: use 1"):
        pipeline.check_training(data)


def test_seeds_differ(data):
    orders = set()
    for seed in (0, 1, 2):
        data.seed = seed
        orders.add(b"".join(b["index"].tobytes() for b in pipeline.train_batches(data, 0, 3)))
    assert len(orders) == 3


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize(("split", "examples", "batches"), [("train", 15, 4), ("validation", 2, 1)])
def test_evaluation_counts_each_example_once(data, split, examples, batches, hosts):
    records = everything(data, split)
    per_host = [list(pipeline.eval_batches(data, split, host, hosts)) for host in range(hosts)]
    assert {len(batches) for batches in per_host} == {batches}
    whole = joined(per_host)
    index, source, target = (
        np.concatenate([batch[key] for batch in whole]) for key in ("index", "source", "target")
    )
    assert len(index) == 4 * batches
    np.testing.assert_array_equal(index[:examples], np.arange(examples))
    assert (index[examples:] == -1).all()
    for i, record in enumerate(records):
        np.testing.assert_array_equal(source[i], record["mask"])
        np.testing.assert_array_equal(target[i], record["image"])


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_of_chosen_examples(data, hosts):
    records = everything(data, "train")
    chosen = [7, 3, 14, 0, 9]
    per_host = [
        list(pipeline.eval_batches(data, "train", host, hosts, chosen)) for host in range(hosts)
    ]
    whole = joined(per_host)
    assert np.concatenate([batch["index"] for batch in whole]).tolist() == [*chosen, -1, -1, -1]
    targets = np.concatenate([batch["target"] for batch in whole])
    for target, index in zip(targets, chosen, strict=False):
        np.testing.assert_array_equal(target, records[index]["image"])


def test_evaluation_is_never_augmented(data):
    plain = list(pipeline.eval_batches(data, "test"))
    data.update(AUGMENTED)
    assert_same(pipeline.eval_batches(data, "test"), plain)


def test_table_of_examples(data):
    for split in ("train", "validation", "test"):
        table = prepared.examples(data, split)
        for example, record in zip(table, everything(data, split), strict=True):
            names = ("patient", "slice_index", "class", "file_name")
            assert example[:4] == tuple(record[name] for name in names)
            assert example.spacing_mm == tuple(record["spacing_mm"]) == (0, 0, 0)


def test_errors_come_before_the_first_batch(data):
    with pytest.raises(DataError, match=r"batch_size is 4.*3 hosts"):
        pipeline.train_batches(data, 0, 1, 0, 3)
    with pytest.raises(DataError, match=r"batch_size is 4.*3 hosts"):
        pipeline.eval_batches(data, "test", 0, 3)
    data.batch_size = 16
    with pytest.raises(DataError, match=r"config\.data\.batch_size is 16"):
        pipeline.check_training(data)
    assert len(list(pipeline.eval_batches(data, "train"))) == 1
    for function in (pipeline.eval_batches, prepared.examples):
        with pytest.raises(DataError, match="train, validation, test"):
            function(data, "val")
    data.load_size = 8
    data.batch_size = 4
    with pytest.raises(DataError, match="load_size"):
        pipeline.check_training(data)
    data.load_size, data.patch_size = 0, 17
    with pytest.raises(DataError, match="patch_size is 17: use 0 to 16"):
        pipeline.check_training(data)
    data.patch_size, data.source_type = 0, "int16"
    with pytest.raises(DataError, match=r"source_type .* int16 and 1.* is uint8 with 1: correct"):
        pipeline.check_training(data)


def test_not_prepared_gives_the_command_to_run(data, source):
    data.mask_resize = "bilinear"
    with pytest.raises(DataError) as caught:
        pipeline.train_batches(data, 0, 1)
    command = str(caught.value).split("run ", 1)[1].replace("DIR", str(source), 1).split()
    assert command[:3] == ["python", "-m", "launch.prepare"]
    # With the same config, preparation must write where the pipeline looks.
    fields = ("data_dir", "image_size", "mask_resize", "mask_values", "validation_fraction")
    config = [f"--config.data.{name}={data[name]}" for name in fields]
    commands.run(command[2], command[3], "--config=configs/lidc_mask2ct.py", *config)
    assert pipeline.num_training_examples(data) == 15


def test_an_embedded_sample_is_prepared_on_first_use(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepared, "SAMPLES", source.parent)
    data = data_config(tmp_path / "data", sample="source")
    with pytest.raises(DataError, match=f"{tmp_path}/data/.* does not exist"):
        Dataset(data).examples("test")
    assert len(Dataset(data, prepare=True).examples("test")) == 3
    assert 'preparing the embedded sample "source"' in capsys.readouterr().out
    assert next(pipeline.train_batches(data, 0, 1))["source"].shape == (4, 16, 16, 1)
    assert "preparing" not in capsys.readouterr().out


def test_a_sample_is_one_of_ours_by_its_name(source, tmp_path):
    """The config of a workdir from elsewhere could name the user's own files."""
    for sample in ("nothing", str(source), "../samples/chest_ct", "..", ".", "chest_ct/train"):
        data = data_config(tmp_path / "data", sample=sample)
        for use in (prepared.ensure_prepared, prepared.fetch, prepared.find):
            with pytest.raises(DataError, match=f"no embedded sample '{sample}': leave it empty"):
                use(data)
    assert not (tmp_path / "data").exists()


def shard(data, number):
    (path,) = prepared.ensure_prepared(data).glob(f"lidc_masks-train*-{number:05d}-of-?????")
    return path


def test_a_corrupt_record_is_named(data):
    path = shard(data, 1)
    content = bytearray(path.read_bytes())
    pixels = everything(data, "train")[6]["image"].tobytes()  # record 2 of the second shard
    content[content.index(pixels) + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(pipeline.eval_batches(data, "train"))
    message = str(caught.value)
    assert (
        str(path) in message
        and "record 2, which is patient LIDC-IDRI-" in message
        and "\n" not in message
    )


@pytest.mark.parametrize("harm", ["truncated", "missing"])
def test_a_damaged_shard_is_named(data, harm):
    path = shard(data, 1)
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError) as caught:
        list(pipeline.eval_batches(data, "train"))
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_sees_no_gpu_and_needs_no_jax():
    assert not tf.config.get_visible_devices("GPU")
    # TensorFlow imports JAX if it can.
    code = "import sys; sys.modules['jax'] = None; from input_pipeline import pipeline"
    subprocess.run([sys.executable, "-c", code], check=True)
