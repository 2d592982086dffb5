"""The user's loss: its forms, its evaluation at moved parameters, batched calls, and the proof of its float64 form."""
