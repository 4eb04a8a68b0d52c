"""What others made, opened, named and shown without harm. Nothing here knows of a run."""
