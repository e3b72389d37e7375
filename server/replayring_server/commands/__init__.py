"""Commands of the server's side: one module each, with `add_arguments` and `run`."""
