"""No key, password or token is shown, logged or written."""

import logging

import pytest

from configs import lidc_mask2ct
from jax_pix2pix.errors import ConfigError, DataError
from jax_pix2pix.logs import process_log, trackers
from jax_pix2pix.logs.messages import messages
from jax_pix2pix.runs import workdir_files
from jax_pix2pix.runs.stores import storage
from jax_pix2pix.safety.redaction import redacted, redacted_value
from tests import commands


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SE/CR+ET@host/a", "s3://***@host/a"),
        ("https://user:to@ken@mlflow.org/x", "https://***@mlflow.org/x"),
        ("at https://ghp_token@github.com/a: no", "at https://***@github.com/a: no"),
        ("https://h/a?X-Amz-Signature=abc&x=1", "https://h/a?X-Amz-Signature=***&x=1"),
        ("https://h/a?x=1&sig=abc%3D", "https://h/a?x=1&sig=***"),
        ("('https://h/a?access_token=abc', 3)", "('https://h/a?access_token=***', 3)"),
        ("a?AWSAccessKeyId=A&Expires=1", "a?AWSAccessKeyId=***&Expires=1"),
        ("s3:/KEY:SECRET@b", "s3:/***@b"),
        ("s3://KEY:123/SE/CRET@b/x", "s3://***@b/x"),
        ("https:/user:password@host", "https:/***@host"),
        ("https://h/cb#access_token=abc&state=1", "https://h/cb#access_token=***&state=1"),
        *(
            (f"https://h/a?x=1&{name}=abc", f"https://h/a?x=1&{name}=***")
            for name in ("auth", "authorization", "jwt", "pass", "code", "session", "session_id")
        ),
        ('https://h/a?sig="a b"&x=1', "https://h/a?sig=***&x=1"),
        ("at 'https://h/a?sig=A B' now", "at 'https://h/a?sig=***' now"),
        ("Authorization: Bearer abc was refused", "Authorization: *** was refused"),
        ("{'Authorization': 'Basic dXNlcg==', 'a': 1}", "{'Authorization': '***', 'a': 1}"),
        ("authorization: AWS4-HMAC-SHA256 Credential=A/b, Signature=c", "authorization: ***"),
        ("got Bearer eyJhbGciOi.JIUzI1NiJ9.x-y_z", "got Bearer ***"),
        (
            "{'aws_secret_access_key': 'a b', \"password\": \"c\"}",
            "{'aws_secret_access_key': '***', \"password\": '***'}",
        ),
    ],
)
def test_credentials_in_urls_are_masked(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert "***" in redacted_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/runs/a@b:c", "http://127.0.0.1:5000/a@b", "gs://bucket/a?design=1",
        "mail somebody@host", "{'a': 'https://h/a', 'b': 'c:d@e'}", "gs://b/a?zipcode=1&author=me",
        "it can't be read: 'x' isn't a key: don't", "/usr:/lib:a@b", "the bearer of this",
        "at https://h/a?x=A B", "{'key': 'data.cache'}",
    ],
)  # fmt: skip
def test_other_text_stays(text):
    assert redacted(text) == redacted_value(text) == text


SECRET = "https://user:hidden@host/a"


def test_messages_and_logs_mask(tmp_path, capsys):
    messages.warning("cannot reach %s", SECRET)
    assert capsys.readouterr().err == "warning: cannot reach https://***@host/a\n"
    handler = process_log._File(tmp_path, tmp_path / "log")
    try:
        raise OSError(SECRET)
    except OSError as error:
        handler.handle(logging.getLogger().makeRecord(
            "", logging.WARNING, "", 1, "failed at %s", (SECRET,), (OSError, error, None)
        ))  # fmt: skip
    text = (tmp_path / "log").read_text("utf-8")
    assert "hidden" not in text and text.count("***") == 2


def test_an_error_of_a_command_masks():
    _, err = commands.run("launch.goodput", "--workdir=s3://KEY:hidden@host/run", code=1)
    line = commands.error_line(err)
    assert "s3://***@host/run: a url with a key" in line and "hidden" not in line


def test_a_config_keeps_no_credentials(tmp_path):
    for url in ("s3://KEY:hidden@host/data", "s3:/KEY:hidden@b", "https://h/a?sig=A hidden"):
        with pytest.raises(DataError, match="environment variables or the profile") as caught:
            storage.local_folder(url)
        assert "hidden" not in str(caught.value)
    config = lidc_mask2ct.get_config()
    config.loss.perceptual_weights_file = SECRET
    with pytest.raises(ConfigError, match=r"loss.perceptual_weights_file=https://\*\*\*@host/a: a"):
        workdir_files.claim(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_the_address_of_mlflow_has_no_password(tmp_path):
    match = r"^--mlflow=https://\*\*\*@host/a: a password or token .* MLFLOW_TRACKING_TOKEN$"
    for use in (
        lambda: trackers.check_installed(None, SECRET),
        lambda: trackers.mlflow_writer(SECRET, "experiment", "runs/a"),
    ):
        with pytest.raises(ConfigError, match=match):
            use()
    submit = ["local", "--config=lidc_mask2ct:quickstart", f"--workdir={tmp_path}", "--dry_run"]
    ((code, out, err),) = commands.submit([[*submit, f"--mlflow={SECRET}"]])
    assert code == 1 and "hidden" not in out + err and "MLFLOW_TRACKING" in commands.error_line(err)


@pytest.mark.slow
def test_a_run_writes_no_secret_of_its_environment(sample_data_dir, tmp_path):
    names = (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN",
        "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY",
    )  # fmt: skip
    mark = "hidden0123456789hidden0123456789hidden01"
    variables = dict.fromkeys(names, mark) | {"WANDB_MODE": "offline"}
    arguments = commands.tiny_training(tmp_path / "run", sample_data_dir, epochs=1)
    trackers = ["--wandb=a", f"--mlflow={tmp_path}/mlflow"]
    out, err = commands.run("launch.train", *arguments, *trackers, variables=variables)
    assert mark not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for name in ("config.json", "*.wandb", "meta.yaml", "events.out*", "process_0000.log"):
        assert any(path.match(name) for path in files), name
    assert not [path for path in files if mark.encode() in path.read_bytes()]
