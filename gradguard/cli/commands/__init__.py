"""The commands, one module each: `add_to` adds the command to the parser and `run` runs it."""
