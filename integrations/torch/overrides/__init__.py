"""How the user's loss runs unchanged on other tensors: float64 copies, dual tensors, or many copies in one call."""
