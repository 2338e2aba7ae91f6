"""Which network interface this job's traffic should use, and whether what it leads to answers. Free of torch.

kernel -> netlink (interfaces, addresses, routes) -> choose (by route, not by name) -> what gloo and NCCL are told
probe  (datagrams: does it work both ways, what do the clocks say)      rate  (how fast a link is)
"""
