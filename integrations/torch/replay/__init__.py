"""The training's loss evaluated again, from the random streams, buffers and states that its step began with."""
