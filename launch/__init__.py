"""Commands, each `python -m launch.NAME`."""

from launch import garbage, huge_pages

huge_pages.request()
garbage.expect_imports()
