"""Arrays: types, validation, floating-point properties, reductions, random draws, sharded arrays and named blocks."""
