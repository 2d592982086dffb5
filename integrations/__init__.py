"""One module or package for each framework that gradguard attaches to; installed as `gradguard.integrations`.

An integration finds the parameters of a framework, and the moment in a training step at which the gradients are
accumulated and unscaled but not yet clipped. The numerics stay in the core, which imports no framework, and each
integration imports only its own: `native` needs a C or C++ compiler, `torch` needs PyTorch 2.6 or newer, `jax` needs
JAX 0.10 or newer. Those of frameworks on PyTorch, such as `lightning`, are thin modules over
`gradguard.integrations.torch.step_guard`.
"""
