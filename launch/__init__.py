"""Commands, each `python -m launch.NAME`."""

import gc

from launch import huge_pages

huge_pages.request()
# Imports make a million objects that stay. Looking for garbage among them is a quarter of a start.
gc.set_threshold(20_000, 20, 20)
