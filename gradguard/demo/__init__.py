"""The demo: an LSTM trained on a real genome, once with a fault in its backward pass and once without."""
