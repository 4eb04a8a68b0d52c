"""Commands, each `python -m launch.NAME`."""

from launch.process import gc_tuning, huge_pages

huge_pages.request()
if huge_pages.is_command():  # a notebook that imports a command keeps its own settings
    gc_tuning.expect_imports()
