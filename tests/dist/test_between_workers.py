"""Collectives and votes between three processes."""

import pytest
from spawn import CaseFailed, Workers

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def three(workers):
    return workers(3)


def test_a_sum_is_over_all_workers(three):
    assert three.run("sum_of_ranks") == [[[6, 6, 6], [1.5, 1.5]]] * 3


def test_sums_may_be_under_way_together(three):
    assert three.run("sums_in_flight") == [[[3, True], [6, True], [9, True], [12, True], [15, True]]] * 3


def test_a_broadcast_puts_rank_0s_values_into_tensors_of_any_strides(three):
    first, second, third = three.run("broadcast_of_any_strides")

    assert first["matrix"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert second["matrix"] == [[100, 1, 2, 3], [104, 5, 6, 7], [108, 9, 10, 11]]
    assert third["matrix"] == [[200, 1, 2, 3], [204, 5, 6, 7], [208, 9, 10, 11]]
    assert first["image"] == second["image"] == third["image"] == list(range(12))
    assert second["strides"] == [12, 1, 6, 3]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None], "ä": "ö"}, "", None, [0] * 10_000])
def test_rank_0s_json_arrives_everywhere(three, value):
    assert three.run("json_from_rank_0", value=value) == [value] * 3


def test_json_of_different_lengths_is_gathered_in_rank_order(three):
    assert three.run("json_of_every_rank") == [["", "äöü", list(range(1000))]] * 3


def test_what_rank_0_alone_does_is_known_to_all(three):
    results = three.run("rank_0_alone", fails=False)

    assert results == [{"value": {"made": True}, "calls": [0]}] + [{"value": {"made": True}, "calls": []}] * 2


def test_a_users_mistake_that_rank_0_finds_is_raised_on_all(three):
    mistake = ["no such folder", "a.yaml:3", "Make it."]

    results = three.run("rank_0_alone", fails=True)

    assert results == [{"error": mistake, "calls": [0]}] + [{"error": mistake, "calls": []}] * 2


def test_the_others_find_what_rank_0_left_for_them(three, tmp_path):
    assert three.run("rank_0_before_the_others", path=str(tmp_path / "index")) == [False, True, True]


def test_when_rank_0_fails_the_others_do_not_begin(three):
    assert three.run("rank_0_fails_before_the_others") == [
        {"error": "no such folder", "calls": [0]},
        {"error": "no such folder", "calls": []},
        {"error": "no such folder", "calls": []},
    ]


def test_a_vote_is_read_by_all_one_step_after_it_was_cast(three):
    results = three.run("votes", n_steps=4, asks={"1": 1, "2": 1})

    assert results[0] == results[1] == results[2]
    assert [step["stop"] for step in results[0]["read"]] == [0, 0, 2, 0]
    assert [step["bad"] for step in results[0]["read"]] == [0, 3, 3, 3]


def test_a_drain_waits_for_the_last_vote(three):
    for result in three.run("votes", n_steps=2, asks={"2": 1}):
        assert result["rest"] == {"stop": 1, "bad": 3}
        assert result["after"] == {"stop": 0, "bad": 0}


@pytest.mark.parametrize("bucket_mib", [1, 12 / 2**20])  # one bucket, four buckets
def test_gradients_that_come_in_another_order_or_not_at_all_are_summed_with_their_own(three, bucket_mib):
    uses = {"0": [3, 2, 1, 0], "1": [0, 1, 2, 3], "2": [2, 0]}

    for result in three.run("unequal_parts_of_a_network", uses=uses, bucket_mib=bucket_mib):
        assert result == {"sums": [111, 11, 111, 11], "status": [6, 1]}


# --- failures; after each of them the harness starts new processes ---


@pytest.fixture(scope="module")
def two():
    with Workers(2) as workers:
        yield workers


def test_the_end_of_a_worker_is_an_echo_in_the_others(two):
    with pytest.raises(CaseFailed, match="rank 1: this process has ended") as caught:
        two.run("lose_a_peer")

    assert caught.value.results[0].startswith("lost contact with the other workers in all_reduce of [1] torch.float32: ")


def test_a_hang_is_answered_with_the_stacks_of_all_workers(two):
    with pytest.raises(CaseFailed) as caught:
        two.run("hang", deadline_s=1)

    report = str(caught.value)
    assert "in hang" in report and "in barrier" in report


def test_a_bug_on_one_worker_is_told_with_its_rank(two):
    with pytest.raises(CaseFailed, match=r"(?s)rank 1: .*ValueError: a bug on one worker"):
        two.run("fail_on_rank", rank=1)
