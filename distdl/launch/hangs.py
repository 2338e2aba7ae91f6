"""From a verdict of the watch to failure records, one per worker, as the launcher's last words need them."""

from collections.abc import Mapping

from distdl.run import failures
from distdl.run.failures import FailureRecord
from distdl.watch import judge
from distdl.watch.judge import Verdict
from distdl.watch.watch import Stacks, Watch


def records(watch: Watch, verdict: Verdict, texts: Stacks, attempt: int) -> list[FailureRecord]:
    """Of who is missing, with the cause and the stacks; and of those that waited. `texts`: the stacks, by rank."""
    found = []
    for rank in watch.ranks:
        state = watch.state_of(rank)
        # With nobody to blame, the first rank's record has the cause.
        is_missing = rank in verdict.ranks or (not verdict.ranks and rank == watch.ranks[0])
        message = told(watch, verdict, texts) if is_missing else "waited for it, and was killed"
        found.append(
            failures.from_outside(
                rank=rank,
                kind=("hang" if verdict.ranks else "link") if is_missing else "peer_lost",
                message=message,
                stacks=texts.get(rank, ""),
                step=state.step,
                attempt=attempt,
                host=watch.host,
            )
        )
    return found


def told(watch: Watch, verdict: Verdict, texts: Stacks) -> str:
    """The verdict for the screen: where the first of the missing stands, what the others do, why, and what to do."""
    lines = []
    rank = next(iter(verdict.ranks), None)
    if rank is not None and (text := texts.get(rank)):
        lines.append(where(watch, rank, text))
    lines += verdict.others
    lines.append(f"{verdict.what} (after {verdict.after_s:.1f} s; the stacks of all threads are in failures/)")
    lines.append(f"  {verdict.fix}")
    return "\n".join(lines)


def where(watch: Watch, rank: int, text: str) -> str:
    """Where a worker of this host stands, by its stacks."""
    return (
        f"rank {rank} stands at {watch.place_of(rank, text) or 'no line of Python'}:\n{watch.short_stack(rank, text)}"
    )


def mismatch(watch: Watch, by_rank: Mapping[int, FailureRecord], attempt: int) -> FailureRecord | None:
    """Of the workers' unlike collectives, if that is what they failed from: libraries only say that something broke."""
    parting = watch.parting()
    if parting is None:
        return None
    rank = parting.ranks[0]
    own = by_rank.get(rank)
    return failures.from_outside(
        rank=rank,
        kind="mismatched",
        message=f"{parting.text}\n  {judge.FIX['mismatched']}",
        stacks=own.traceback if own else "",
        step=watch.state_of(rank).step,
        attempt=attempt,
        host=watch.host,
        at=min(record.time for record in by_rank.values()),
    )
