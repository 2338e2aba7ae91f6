"""Tells gloo and NCCL which network interface to use, before they start. Free of torch.

Left alone, gloo takes the address that the host's own name resolves to, which may be loopback, a container's bridge or
nowhere; and NCCL the first interface that is not called lo or docker. Here it is the one that leads to the others.
"""

import os
from collections.abc import Mapping, MutableMapping

from distdl.comm.world import WorldInfo
from distdl.net import given, netlink
from distdl.net.choose import Choice, choose, resolve

_ANYWHERE = "198.41.0.4"  # a root name server: nothing is sent there, it only stands for "off this network"


def settle(info: WorldInfo, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Sets GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME as far as the user has not; returns warnings.

    Workers of one machine that meet over loopback use it, by gloo: NCCL has better ways there. Raises UserError if
    nothing leads to the master.
    """
    master = environment.get("MASTER_ADDR", "")
    if info.world_size == 1 or not master or not netlink.is_available():
        return []
    try:
        choice = choose_for(info, master, environment)
    except OSError as error:
        return [f"the network interface is left to gloo and NCCL: the kernel does not tell about its own ({error})"]
    wanted = given.to_set(choice.interface, environment)
    if choice.address == "127.0.0.1":
        wanted.pop(given.NCCL, None)
    environment.update(wanted)
    return choice.warnings


def choose_for(info: WorldInfo, master: str, environment: Mapping[str, str]) -> Choice:
    """What leads to the master; on the master's own machine, what has the address by which the others know it."""
    if info.world_size <= info.local_world_size:
        return choose([master], environment=environment)
    addresses = [address for address in resolve(master) if not address.is_loopback]
    if addresses:
        return choose([str(addresses[0])], environment=environment)
    # torchrun gives the host's name, which /etc/hosts may map to 127.0.1.1 on that host alone.
    choice = choose([_ANYWHERE], environment=environment)
    why = f"MASTER_ADDR={master} is loopback here, though other machines take part"
    choice.warnings.append(f"{why}: {choice.interface} is taken, which leads off this network")
    return choice


def own_address(info: WorldInfo, environment: Mapping[str, str] = os.environ) -> str:
    """This host's address on the job's network; "" where one machine is all of it."""
    master = environment.get("MASTER_ADDR", "")
    if info.world_size <= info.local_world_size or not master or not netlink.is_available():
        return ""
    return choose_for(info, master, environment).address
