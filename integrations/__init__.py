"""What ties gradguard to a framework, one file each; installed as `gradguard.integrations`.

An integration says where the framework keeps its parameters and where its gradients are clean: accumulated,
unscaled and not yet clipped. The numerics stay in the core, which knows no framework.
"""
