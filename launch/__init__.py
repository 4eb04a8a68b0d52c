"""Commands, each `python -m launch.NAME`."""

from launch.process import gc_tuning, huge_pages

huge_pages.request()
gc_tuning.expect_imports()
