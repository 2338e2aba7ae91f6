"""distdl/models/conformer.py: attention by distance, as its formula has it."""

import math

import pytest
import torch

from distdl.errors import UserError
from distdl.models.conformer import RelativeAttention, conformer_ctc_small, positions, shifted


def test_shifting_puts_each_distance_where_it_is_of():
    n = 5
    by_distance = torch.arange(n - 1, -n, -1.0).expand(1, 1, n, 2 * n - 1)

    placed = shifted(by_distance)

    frame = torch.arange(n)
    assert torch.equal(placed[0, 0], (frame[:, None] - frame[None, :]).float())


def test_attention_is_the_sum_over_frames_that_defines_it():
    torch.manual_seed(0)
    layer = RelativeAttention(8, 2, 0.0).double()
    torch.nn.init.normal_(layer.of_content)
    torch.nn.init.normal_(layer.of_position)
    values, n, own = torch.randn(1, 6, 8, dtype=torch.float64), 6, 4
    encoded = positions(n, 8, values)
    mask = torch.arange(n)[None] < own

    found = layer(values, encoded, mask)[0]

    query, key, value = (each(values)[0].unflatten(1, (2, 4)) for each in (layer.query, layer.key, layer.value))
    position = layer.position(encoded).unflatten(1, (2, 4))
    expected = torch.zeros(n, 2, 4, dtype=torch.float64)
    for head in range(2):
        for t in range(n):
            scores = [
                (
                    (query[t, head] + layer.of_content[head]) @ key[s, head]
                    + (query[t, head] + layer.of_position[head]) @ position[n - 1 - (t - s), head]
                )
                / math.sqrt(4)
                for s in range(own)
            ]
            weights = torch.stack(scores).softmax(0)
            expected[t, head] = sum(weight * value[s, head] for s, weight in enumerate(weights))
    torch.testing.assert_close(found, layer.out(expected.flatten(1)), rtol=1e-5, atol=1e-6)


def test_distances_are_encoded_by_sines_and_cosines():
    encoded = positions(3, 4, torch.zeros(1))

    assert encoded[:, 0].tolist() == pytest.approx([math.sin(d) for d in (2, 1, 0, -1, -2)])
    assert encoded[:, 3].tolist() == pytest.approx([math.cos(d / 100) for d in (2, 1, 0, -1, -2)])


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="not divided by 3 heads"):
        conformer_ctc_small(heads=3)
