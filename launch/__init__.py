"""Commands: where the library and the input pipeline meet."""
