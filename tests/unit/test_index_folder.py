"""`distdl data index` from a wids listing, and without the samples that a run could not use; wids reads the result."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distdl.cli import main
from distdl.data.corpus import descriptor
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.shards import RawSample, index_folder, write_shards
from distdl.data.inspect import verify
from distdl.errors import UserError


def silent(line: str) -> None:
    pass


def samples(n: int) -> list[RawSample]:
    return [{"__key__": f"c/{i:02d}", "txt": f"text {i}", "cls": i % 3} for i in range(n)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three shards with four, four and two samples."""
    write_shards(samples(10), tmp_path / "corpus", classes=["a", "b", "c"], kind="test", shard_samples=4)
    return tmp_path / "corpus"


def keys(folder: Path, **options: Any) -> list[str]:
    with Dataset.open(folder, **options) as dataset:
        return [dataset.key(*dataset.locate(i)) for i in range(dataset.n_samples)]


def quarantine(path: Path, *named: tuple[str, str]) -> Path:
    lines = [json.dumps({"shard": shard, "key": key, "reason": "truncated JPEG"}) for shard, key in named]
    path.write_text("\n".join([*lines, ""]))
    return path


# --- samples left out ---


def test_named_samples_are_left_out_of_the_index_and_the_tars_stay_as_they_are(corpus: Path, tmp_path: Path) -> None:
    tars = {tar.name: tar.read_bytes() for tar in corpus.glob("*.tar")}
    file = quarantine(tmp_path / "quarantine.jsonl", ("000000.tar", "c/01"), ("000002.tar", "c/08"))
    said: list[str] = []

    index_folder(corpus, say=said.append, excluded_by=[file])

    assert keys(corpus) == ["c/00", "c/02", "c/03", "c/04", "c/05", "c/06", "c/07", "c/09"]
    assert {tar.name: tar.read_bytes() for tar in corpus.glob("*.tar")} == tars
    assert Dataset.open(corpus).classes == ["a", "b", "c"]
    report = verify(corpus)
    assert report.ok and report.n_samples == 8
    assert "000000.tar: 1 sample left out on purpose, not looked at" in report.notes
    assert "left out 2 of the samples in the tars" in said


def test_what_is_left_out_makes_another_corpus(corpus: Path, tmp_path: Path) -> None:
    identities = [Dataset.open(corpus).identity]
    for key in ("c/00", "c/01"):
        index_folder(corpus, say=silent, excluded_by=[quarantine(tmp_path / "q.jsonl", ("000000.tar", key))])
        identities.append(Dataset.open(corpus).identity)

    assert len(set(identities)) == 3


def test_indexing_again_brings_them_back_and_says_so(corpus: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    index_folder(corpus, say=silent, excluded_by=[quarantine(tmp_path / "q.jsonl", ("000000.tar", "c/00"))])
    said: list[str] = []

    index_folder(corpus, say=said.append)

    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before
    assert "back again: 1 samples that were left out before" in said


def test_samples_of_other_folders_and_unknown_ones_change_nothing(corpus: Path, tmp_path: Path) -> None:
    named = [(str(tmp_path / "other" / "000000.tar"), "c/00"), ("000000.tar", "c/99"), ("7.tar", "c/00")]
    file = quarantine(tmp_path / "q.jsonl", *named, (str(corpus / "000001.tar"), "c/05"))
    said: list[str] = []

    index_folder(corpus, say=said.append, excluded_by=[file])

    assert len(keys(corpus)) == 9 and "c/05" not in keys(corpus)
    assert "not here: 2 of the samples to be left out, such as 'c/99' in 000000.tar" in said
    assert f"of other folders: 1 of the samples to be left out, such as one in {tmp_path}/other/000000.tar" in said


def test_the_command_takes_several_files_and_writes_elsewhere(corpus: Path, tmp_path: Path) -> None:
    one = quarantine(tmp_path / "one.jsonl", ("000000.tar", "c/00"))
    two = quarantine(tmp_path / "two.jsonl", ("000002.tar", "c/09"))

    code = main(
        ["data", "index", str(corpus), "--exclude", str(one), "--exclude", str(two), "--to", str(tmp_path / "index")]
    )

    assert code == 0
    assert len(keys(corpus)) == 10
    assert keys(corpus, index_folder=tmp_path / "index") == [f"c/{i:02d}" for i in range(1, 9)]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"shard": "000000.tar"}', '{"shard": 1, "key": "c/00"}', "null"])
def test_a_line_that_names_no_sample_is_answered_with_its_number(corpus: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "q.jsonl").write_text(f'\n{{"shard": "000000.tar", "key": "c/00"}}\n{line}\n')

    with pytest.raises(UserError, match=r"q\.jsonl:3: this line names no sample"):
        index_folder(corpus, say=silent, excluded_by=[tmp_path / "q.jsonl"])

    assert len(keys(corpus)) == 10


def test_one_tar_has_no_list_to_leave_samples_out_of(corpus: Path, tmp_path: Path) -> None:
    file = quarantine(tmp_path / "q.jsonl", ("000000.tar", "c/00"))

    with pytest.raises(UserError, match="which one tar has not"):
        index_folder(corpus / "000000.tar", say=silent, excluded_by=[file])


# --- all files change, or none ---


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damage_a_header(tar: Path, key: str) -> None:
    content = bytearray(tar.read_bytes())
    at = content.index(f"{key}.txt".encode())
    content[at + 148 : at + 156] = b"no digit"  # the header's own checksum
    tar.write_bytes(content)


def test_where_a_later_tar_can_t_be_indexed_nothing_changes(corpus: Path, tmp_path: Path) -> None:
    """Not even what was left out of an earlier one comes back."""
    index_folder(corpus, say=silent, excluded_by=[quarantine(tmp_path / "q.jsonl", ("000000.tar", "c/01"))])
    damage_a_header(corpus / "000001.tar", "c/05")
    before = contents(corpus)

    with pytest.raises(UserError, match=r"000001\.tar: this tar is damaged: no valid header"):
        index_folder(corpus, say=silent)

    assert contents(corpus) == before


def test_indexes_that_are_there_need_no_header(corpus: Path, tmp_path: Path) -> None:
    """The damage stays known for what it is: a component that has changed is still not what was indexed."""
    for at, key in (("000001.tar", "c/05"), ("000002.tar", "c/09")):
        damage_a_header(corpus / at, key)
    (corpus / "000001.tar").write_bytes((corpus / "000001.tar").read_bytes().replace(b"text 7", b"tExt 7"))
    first = quarantine(tmp_path / "1.jsonl", ("000000.tar", "c/01"), ("000001.tar", "c/06"))
    second = quarantine(tmp_path / "2.jsonl", ("000001.tar", "c/05"))
    said: list[str] = []

    index_folder(corpus, say=said.append, excluded_by=[first])
    index_folder(corpus, say=said.append, excluded_by=[first, second])

    left = ["c/00", "c/02", "c/03", "c/04", "c/07", "c/08", "c/09"]
    assert keys(corpus) == left
    assert "000001.tar: has changed since it was indexed; its samples are compared with the checksums from then" in said
    assert [(each.shard, each.key) for each in verify(corpus).problems] == [("000001.tar", "c/07"), ("000002.tar", "")]
    with pytest.raises(UserError, match="this tar is damaged"):  # c/06 is only in the tar
        index_folder(corpus, say=silent, excluded_by=[second])
    assert keys(corpus) == left


def test_what_is_left_out_step_by_step_is_what_is_left_out_at_once(corpus: Path, tmp_path: Path) -> None:
    one = quarantine(tmp_path / "1.jsonl", ("000000.tar", "c/02"), ("000001.tar", "c/04"))
    two = quarantine(tmp_path / "2.jsonl", ("000000.tar", "c/00"), ("000000.tar", "c/77"))
    index_folder(corpus, say=silent, excluded_by=[one])
    index_folder(corpus, say=silent, excluded_by=[one, two])
    step_by_step = contents(corpus)
    index_folder(corpus, say=silent)
    (corpus / "dataset.json").unlink()  # so that the tars are read

    index_folder(corpus, say=silent, excluded_by=[one, two])

    listed = descriptor.parse(step_by_step.pop("dataset.json"), "", "")
    again = descriptor.read(corpus / "dataset.json")
    assert listed and again and listed.shards == again.shards
    assert contents(corpus).items() >= step_by_step.items()


@pytest.mark.parametrize("n_in_place", range(4))
def test_a_command_that_was_killed_while_files_take_their_places_is_mended_by_itself(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_in_place: int
) -> None:
    damage_a_header(corpus / "000000.tar", "c/01")
    file = quarantine(tmp_path / "q.jsonl", ("000000.tar", "c/00"), ("000000.tar", "c/77"), ("000002.tar", "c/08"))
    rename, renamed = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        if self.parent.name == ".unfinished" and target.parent == corpus:
            if len(renamed) == n_in_place:
                raise KeyboardInterrupt
            renamed.append(target.name)
        return rename(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        index_folder(corpus, say=silent, excluded_by=[file])

    assert "dataset.json" not in renamed
    index_folder(corpus, say=silent, excluded_by=[file])
    assert keys(corpus) == [f"c/{i:02d}" for i in range(1, 10) if i != 8]
    assert verify(corpus).ok and not (corpus / ".unfinished").exists()


# --- wids listings ---


def write_listing(corpus: Path, path: Path, **changes: Any) -> Path:
    """A listing such as widsindex makes: no fields of ours. `changes` are of the second shard."""
    listed = descriptor.read(corpus / "dataset.json")
    assert listed is not None
    shards = [
        {"url": shard.name, "md5sum": shard.md5, "nsamples": shard.n_samples, "filesize": shard.size_bytes}
        for shard in listed.shards
    ]
    shards[1] |= changes
    value = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "their name", "shardlist": shards}
    path.write_text(json.dumps(value))
    return path


def without_our_files(corpus: Path) -> Path:
    for path in [*corpus.glob("*.ddx"), corpus / "dataset.json"]:
        path.unlink()
    return corpus


def test_a_wids_listing_is_checked_and_indexed(corpus: Path) -> None:
    expected = {path.name: path.read_bytes() for path in corpus.glob("*.ddx")}
    listing = write_listing(corpus, corpus / "shards.json")
    without_our_files(corpus)

    index_folder(listing, say=silent)

    assert {path.name: path.read_bytes() for path in corpus.glob("*.ddx")} == expected
    assert len(keys(corpus)) == 10 and verify(corpus).ok
    written = descriptor.read(corpus / "dataset.json")
    assert written is not None and written.name == "their name"


def test_a_listing_may_lie_elsewhere_and_name_its_tars_by_path(corpus: Path, tmp_path: Path) -> None:
    listing = write_listing(corpus, corpus / "shards.json")
    value = json.loads(listing.read_text())
    for shard in value["shardlist"]:
        shard["url"] = (corpus / shard["url"]).as_uri()
    without_our_files(corpus)
    (tmp_path / "list.json").write_text(json.dumps(value))

    index_folder(tmp_path / "list.json", tmp_path / "index", say=silent)

    assert len(keys(corpus, index_folder=tmp_path / "index")) == 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"md5sum": "0" * 32}, r"000001\.tar has another md5 than is listed"),
        ({"filesize": 7}, r"000001\.tar has \d+ bytes, but 7 are listed"),
        ({"nsamples": 5}, r"000001\.tar holds 4 samples, but 5 are listed"),
        ({"url": "9.tar"}, r"000001\.tar is there and not listed"),
        ({"url": "other/000001.tar"}, "its shards lie in 2 folders"),
        ({"url": "https://example.com/000001.tar"}, r"not on this machine: https://example(.|\n)*Copy the tars here"),
    ],
)
def test_a_listing_that_does_not_fit_is_answered(corpus: Path, changes: dict[str, Any], expected: str) -> None:
    listing = write_listing(corpus, corpus / "shards.json", **changes)

    with pytest.raises(UserError, match=expected):
        index_folder(listing, say=silent)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2", "it is not JSON"),
        ('{"shardlist": []}', "__kind__ is not wids-shard-index-v1"),
        ('{"__kind__": "wids-shard-index-v1"}', "its shardlist is damaged"),
        ('{"__kind__": "wids-shard-index-v1", "shardlist": []}', "its shards lie in 0 folders: none"),
    ],
)
def test_a_file_that_is_no_listing_is_answered(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "list.json").write_text(text)

    with pytest.raises(UserError, match=expected):
        index_folder(tmp_path / "list.json", say=silent)


@pytest.mark.parametrize("left_out", [False, True])
def test_the_wids_package_reads_what_was_written(corpus: Path, tmp_path: Path, left_out: bool) -> None:
    """It goes by the tars: what our index leaves out it reads as well, and everything else stays in its place."""
    wids = pytest.importorskip("wids")
    if left_out:
        index_folder(corpus, say=silent, excluded_by=[quarantine(tmp_path / "q.jsonl", ("000000.tar", "c/01"))])

    theirs = wids.ShardListDataset(
        str(corpus / "dataset.json"), cache_dir=str(tmp_path / "cache"), transformations=[], keep=True
    )

    assert [theirs[i]["__key__"] for i in range(len(theirs))] == [f"c/{i:02d}" for i in range(10)]
    assert [theirs[i][".txt"].read() for i in (0, 9)] == [b"text 0", b"text 9"]


def test_a_descriptor_keeps_what_is_left_out(corpus: Path) -> None:
    listed = descriptor.read(corpus / "dataset.json")
    assert listed is not None
    first = dataclasses.replace(listed.shards[0], n_samples=2, excluded=("c/00", "c/03"))
    changed = dataclasses.replace(listed, shards=[first, *listed.shards[1:]])

    descriptor.write(changed, corpus)

    assert descriptor.read(corpus / "dataset.json") == changed
