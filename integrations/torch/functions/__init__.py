"""Single `torch.autograd.Function`s of a step: their calls recorded, and the gradient of each checked by itself."""
