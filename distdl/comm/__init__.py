"""Communication: who am I (world), moving tensors (collectives), gradients (exchange), common decisions (vote).

Only this package calls torch.distributed.
"""
