"""Votes of one worker: read one step later, as with many."""

from distdl.comm.vote import Vote


def test_a_vote_is_read_one_step_after_it_was_cast():
    vote = Vote("stop", "bad")

    assert vote.cast(stop=1) == {"stop": 0, "bad": 0}
    assert vote.cast(bad=3) == {"stop": 1, "bad": 0}
    assert vote.cast() == {"stop": 0, "bad": 3}
    assert vote.cast() == {"stop": 0, "bad": 0}


def test_a_drain_reads_the_last_vote_once():
    vote = Vote("stop")
    vote.cast(stop=1)

    assert vote.drain() == {"stop": 1}
    assert vote.drain() == {"stop": 0}
    assert vote.cast() == {"stop": 0}
