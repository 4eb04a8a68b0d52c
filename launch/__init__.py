"""Commands, each `python -m launch.NAME`."""

from launch.process import gc_tuning, huge_pages, start_signals

huge_pages.request()
if huge_pages.is_command():  # a notebook that imports a command keeps its own settings
    start_signals.hear(stops=huge_pages.is_command("train"))
    gc_tuning.expect_imports()
