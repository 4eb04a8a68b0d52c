"""A run on disk: its workdir, lock and checkpoints, in a folder or an object store; stopping."""
