"""An iterable to train on: items in the order of the rows, begun again at its end, and never for evaluation."""

import threading

import cv2
import numpy as np
import pytest
import tiny
import torch
import webdataset as wds

from distdl.config.schema import SplitConfig
from distdl.data.iterable import OwnIterable, open_own
from distdl.data.samples import BadSample
from distdl.errors import UserError


def image(value):
    return np.full((4, 4), value, np.uint8)


class Counting(torch.utils.data.IterableDataset):
    """Grey values 0 to n - 1 with label value % 10, but for those that are `damaged`."""

    def __init__(self, n=6, damaged=()):
        self.n, self.damaged = n, damaged

    def __iter__(self):
        for value in range(self.n):
            yield b"no image" if value in self.damaged else image(value), value % 10


class Sized(Counting):
    """Has a length, and inherits a __getitem__ that raises."""

    def __len__(self):
        return self.n


class Stumbling:
    """Fails at one place and goes on behind it, as a generator can't."""

    def __init__(self, n=6, at=2):
        self.n, self.at = n, at

    def __iter__(self):
        self.next = 0
        return self

    def __next__(self):
        value, self.next = self.next, self.next + 1
        if value == self.at:
            raise OSError("the line is dead")
        if value >= self.n:
            raise StopIteration
        return image(value), value % 10


def broken(after=2):
    def items():
        yield from ((image(value), 0) for value in range(after))
        raise OSError("the line is dead")

    return Again(items)


class Again:
    def __init__(self, begin):
        self.begin = begin

    def __iter__(self):
        return self.begin()


def over_shards(shards):
    return wds.WebDataset([str(each) for each in shards], shardshuffle=False)


@pytest.fixture
def iterable():
    opened = []

    def make(items, n_samples=6, **split):
        opened.append(OwnIterable(items, SplitConfig(dataset="test_iterable:items", **split), n_samples))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def build(corpus, opened):
    def make(name, overrides=None, **args):
        split = {"dataset": f"test_iterable:{name}", "args": args}
        return opened(tiny.build(tiny.config(corpus, {"data.train": split, **(overrides or {})})))

    return make


def value_of(example):
    return int(example.content[0, 0, 0])


def values(run):
    return [batch.tensors["image"][:, 0, 0, 0].tolist() for batch in run.host_batches()]


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_hold_the_items_in_their_order_and_the_iterable_begins_again(build, workers):
    run = build("Counting", {"data.draws": 10, "data.workers": workers, "train.steps": 3}, n=6)

    assert values(run) == [[0, 1, 2, 3, 4, 5, 0, 1], [2, 3, 4, 5, 0, 1, 2, 3], [4, 5, 0, 1, 2, 3, 4, 5]]


def test_rows_of_many_threads_hold_them_in_their_order(build):
    run = build("Counting", {"data.draws": 200, "data.workers": 4, "train.global_batch": 200, "train.steps": 1}, n=200)

    assert values(run) == [list(range(200))]


def test_a_sample_of_two_epochs_is_told_apart_whichever_row_is_filled_first(iterable):
    counting = iterable(Counting())
    counting.announce_rows([(3, 100), (3, 101), (3, 102)])

    assert [value_of(counting.example(3, key)) for key in (102, 100, 101)] == [2, 0, 1]


def test_its_epoch_is_as_long_as_said_or_as_it_is(build):
    assert build("Counting", {"data.draws": 50}).plan.epoch_length == 50
    assert build("Sized", n=30).plan.epoch_length == 30
    with pytest.raises(UserError, match="test_iterable:Counting is a Counting, which has no length") as caught:
        build("Counting")
    assert caught.value.where == "data.draws"


def test_a_sample_of_webdataset_is_found_by_the_names_of_its_components(iterable, corpus):
    tars = sorted(corpus.glob("*.tar"))
    raw = iterable(over_shards(tars))
    decoded = iterable(over_shards(tars).decode("l8"))
    tuples = iterable(over_shards(tars).to_tuple("png", "cls"))

    found = [each.example(0) for each in (raw, decoded, tuples)]

    assert [np.asarray(example.decode()).tolist() for example in found] == [found[0].decode().tolist()] * 3
    assert [example.label for example in found] == [b"0", 0, b"0"]
    assert found[0].name == f"00000 in {tars[0].name}"


def test_what_is_looked_at_before_training_is_trained_on(iterable):
    counting = iterable(Counting())

    looked_at = [value_of(counting.example(sample_id)) for sample_id in (0, 1, 0)]
    counting.announce_rows([(5, 0), (3, 0), (5, 0)])
    taken = [value_of(counting.example(sample_id)) for sample_id in (3, 5, 5)]

    assert looked_at == [0, 0, 0] and taken == [1, 0, 2]
    assert value_of(counting.example(4)) == 3  # not announced: as a stand-in for a bad one


def test_a_bad_item_is_masked_in_its_place(build):
    (batch,) = build("Counting", {"data.draws": 8, "train.steps": 1}, n=8, damaged=[3]).host_batches()

    assert batch.tensors["valid"].tolist() == [1, 1, 1, 0, 1, 1, 1, 1]
    assert "an item in test_iterable:Counting" in str(batch.problems[0])


def test_another_item_stands_in_for_a_bad_one(build):
    overrides = {"data.draws": 8, "data.bad_sample": "substitute", "train.steps": 1}

    (batch,) = build("Counting", overrides, n=9, damaged=[3]).host_batches()

    assert batch.n_bad == 1 and batch.tensors["valid"].all()
    assert set(batch.tensors["image"][:, 0, 0, 0].tolist()) >= {0, 1, 2, 4, 5, 6, 7}


def test_an_exception_is_a_bad_item_where_the_iterable_goes_on(build):
    (batch,) = build("Stumbling", {"data.draws": 8, "train.steps": 1}, n=9).host_batches()

    assert batch.tensors["valid"].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert [str(each) for each in batch.problems] == ["an item in test_iterable:Stumbling: OSError: the line is dead"]


def test_an_exception_that_ends_it_is_no_pass_that_ended(build):
    with pytest.raises(UserError, match="it ended with an exception: OSError: the line is dead"):
        list(build("broken", {"data.draws": 8, "train.steps": 1}).host_batches())


def test_one_that_gives_nothing_is_a_mistake(build):
    with pytest.raises(UserError, match="no sample at all"):
        build("Counting", {"data.draws": 8}, n=0)


def test_workers_that_begin_with_the_same_sample_are_told(iterable):
    alone, same, other = (iterable(items) for items in (Counting(), Counting(), Counting(damaged=[0])))
    digests = [each.first_digest() for each in (alone, same, other)]

    alone.compare([digests[0], digests[2], None])
    same.compare([digests[0], digests[1], None])

    assert len(alone.remarks()) == 1 and "a resumed run begins a new pass" in alone.remarks()[0]
    assert "split_by_node" in same.remarks()[1]


def test_to_close_it_lets_go_who_waits(iterable):
    go_on = threading.Event()

    def items():
        yield image(0), 0
        go_on.wait()
        yield image(1), 1

    waiting = iterable(Again(items))
    waiting.announce_rows([(0, 0), (1, 0), (2, 0)])
    threads = [threading.Thread(target=lambda i=i: _swallowed(waiting, i), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()

    waiting.close()
    go_on.set()

    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)


def _swallowed(iterable, sample_id):
    try:
        iterable.example(sample_id)
    except Exception as error:
        assert not isinstance(error, BadSample)


def test_it_can_be_neither_evaluated_nor_drawn_from(build, corpus, opened):
    split = {"dataset": "test_iterable:Sized"}

    with pytest.raises(UserError, match="without __len__ or __getitem__") as caught:
        opened(tiny.build(tiny.config(corpus, {"data.eval": split})))
    with pytest.raises(UserError, match="decides itself"):
        build("Sized", {"data.sampling": "balanced"})

    assert caught.value.where == "data.eval.dataset: test_iterable:Sized" and "training alone" in caught.value.fix


def test_name_arguments_and_length_are_its_identity():
    def identity(draws, **args):
        opened = open_own(SplitConfig(dataset="test_iterable:Counting", args=args), "data.train", draws)
        opened.close()
        return opened.identity

    assert identity(5) == identity(5) and identity(5).startswith("iterable-")
    assert len({identity(5), identity(6), identity(5, n=3)}) == 3


def test_a_png_may_come_as_the_bytes_of_a_file(iterable):
    png = cv2.imencode(".png", image(77))[1].tobytes()

    assert value_of_bytes(iterable([{"image": png, "label": 1}]).example(0)) == 77


def value_of_bytes(example):
    return int(example.decode()[0, 0, 0])
