"""The network of the question that gradguard grew from, trained on a real genome with its bug on a switch."""
