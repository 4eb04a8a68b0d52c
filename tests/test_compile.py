"""launch.compile: every system for a slice that is not there, the search for a batch, refusals."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jax_pix2pix.errors import BenchmarkError, ConfigError
from jax_pix2pix.workdir import abstract_state, build_system
from launch import ahead_of_time, chips, compile  # noqa: A004
from launch.compiled_program import DoesNotFit
from tests import commands, golden
