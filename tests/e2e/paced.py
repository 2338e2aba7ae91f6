"""Networks each of whose training forwards takes a while, so that a small run lasts as long as a test needs it to."""

import time

from distdl import models


def lenet5(*, pace_s, **args):
    network = models.build("lenet5", args)
    network.register_forward_pre_hook(lambda module, inputs: time.sleep(pace_s) if module.training else None)
    return network
