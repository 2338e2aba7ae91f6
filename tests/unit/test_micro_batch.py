"""train.micro_batch: auto, on a network that runs out of memory above so many rows."""

import pytest
import tiny
import torch

from distdl.errors import UserError
from distdl.trainer import micro_batch


@pytest.fixture
def build(corpus, opened):
    def make(wanted="auto", most_rows=3, global_batch=20):
        overrides = {
            "model": {"name": "tiny:TooLarge", "args": {"most_rows": most_rows}},
            "train.micro_batch": wanted,
            "train.global_batch": global_batch,
        }
        return opened(tiny.build(tiny.config(corpus, overrides)))

    return make


@pytest.mark.parametrize("most_rows, found", [(100, 20), (20, 20), (19, 10), (6, 5), (3, 3), (1, 1)])
def test_auto_halves_the_rows_until_they_fit(build, most_rows, found):
    run = build(most_rows=most_rows)

    micro_batch.settle(run)

    assert run.state.micro_batch == found


def test_a_network_of_which_not_even_a_row_fits_is_told_to_the_user(build):
    with pytest.raises(UserError, match="a single row does not fit into memory"):
        micro_batch.settle(build(most_rows=0))


def test_a_batch_larger_than_the_corpus_is_probed_as_well(build):
    run = build(most_rows=100, global_batch=50)

    micro_batch.settle(run)

    assert run.state.micro_batch == 50


def test_the_probe_leaves_no_trace_in_the_network(build):
    run = build(most_rows=5)
    before = {name: value.clone() for name, value in run.engine.model.state_dict().items()}

    micro_batch.settle(run)

    after = run.engine.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any("running_mean" in name for name in after)
    assert all(parameter.grad is None for parameter in run.engine.model.parameters())


def test_what_auto_found_before_is_kept_by_a_resumed_run(build):
    run = build(most_rows=100)
    run.state.micro_batch = 4

    micro_batch.settle(run)

    assert run.state.micro_batch == 4


@pytest.mark.parametrize("wanted", [2, None])
def test_a_number_is_taken_as_it_is(build, wanted):
    run = build(wanted)
    run.state.micro_batch = 7

    micro_batch.settle(run)

    assert run.state.micro_batch == wanted


def test_another_error_of_the_network_is_not_taken_for_a_lack_of_memory(build):
    run = build()
    run.engine.model.register_forward_pre_hook(lambda module, inputs: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        micro_batch.settle(run)
