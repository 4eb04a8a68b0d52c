"""What is refused before JAX starts."""

import pytest

from jax_pix2pix.errors import ConfigError
from launch import distributed


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_heartbeat_takes_time(seconds):
    with pytest.raises(ConfigError, match=rf"config\.heartbeat_seconds={seconds}: use 1 or more"):
        distributed.initialize(seconds)
