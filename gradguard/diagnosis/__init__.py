"""From what was measured of a tensor to its verdict, its cause and the sentences of a report."""
