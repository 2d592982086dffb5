"""Arrays: their types, floating-point properties, block-wise reductions, random directions, parts and named blocks."""
