"""Tasks: what an output is, and so how it is judged and shown."""
