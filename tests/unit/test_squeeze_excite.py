"""Squeeze and excitation: maps are scaled by factors that are made of all maps' means."""

import torch

from distdl.models.squeeze_excite import SqueezeExcite


def test_each_map_is_scaled_by_a_factor_made_of_the_means_of_all() -> None:
    torch.manual_seed(0)
    module, maps = SqueezeExcite(32, 4), torch.rand(3, 32, 5, 6)
    weights = {name: value.flatten(1) if value.ndim > 1 else value for name, value in module.state_dict().items()}

    hidden = torch.relu(maps.flatten(2).mean(2) @ weights["fc1.weight"].T + weights["fc1.bias"])
    factors = torch.sigmoid(hidden @ weights["fc2.weight"].T + weights["fc2.bias"])

    torch.testing.assert_close(module(maps), maps * factors[:, :, None, None])


def test_it_adds_twice_the_squared_channels_by_the_reduction_and_its_biases() -> None:
    assert sum(each.numel() for each in SqueezeExcite(256).parameters()) == 2 * 256**2 // 16 + 256 + 16
    assert SqueezeExcite(256).fc1.weight.shape == (16, 256, 1, 1)
