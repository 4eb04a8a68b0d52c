"""Code that commands share: flags, starts, errors, processes, progress."""
