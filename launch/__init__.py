"""Commands, each `python -m launch.NAME`."""

from launch import huge_pages

huge_pages.request()
