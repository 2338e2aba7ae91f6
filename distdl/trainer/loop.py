"""The training loop. `fit` reads in one screen and calls everything by name; what it calls stands below it."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import torch

from distdl.checkpoint.save import Checkpoints
from distdl.config.sources import SplitConfig
from distdl.data.engine import HostBatch
from distdl.data.remote.account import take_all
from distdl.errors import UserError
from distdl.track import NullTracker, Tracker
from distdl.trainer import early_stop, schedule, transfer
from distdl.trainer import step as steps
from distdl.trainer.due import Schedule
from distdl.trainer.evaluate import Interrupted, evaluate
from distdl.trainer.meter import Meter
from distdl.trainer.quarantine import TRAIN, Quarantine, check_limits, check_policy, shown
from distdl.trainer.setup import Run
from distdl.trainer.signals import Stop, StopRequests, agreed_stop
from distdl.trainer.state import capture
from distdl.watch import pulse

Track = Tracker | NullTracker
Outcome = Literal["done", "preempted", "interrupted"]
Trace = Callable[[Iterator[HostBatch]], Iterator[HostBatch]]


def fit(
    run: Run,
    track: Track,
    checkpoints: Checkpoints,
    stops: StopRequests,
    quarantine: Quarantine,
    trace: Trace = lambda batches: batches,
) -> Outcome:
    """Trains to the end of the run, or to a stop that all workers agree on. The state is saved when it returns.

    `trace` may stand between the loop and its batches, to profile the steps in between.
    """
    config, state, clock = run.config, run.state, Clock(run.state.time_s)
    meter, first_step = Meter(run.phases, state.unlogged), state.step
    periods = {
        "log": config.train.log_every,
        "eval": config.train.eval_every,
        "save": config.checkpoint.every,
        "tell": "1 epoch",
    }
    events = Schedule(periods, run.plan.epoch_length, run.end)

    stop = evaluate_all(run, track, clock, stops, quarantine) if state.eval_pending else None
    if run.is_over and stop is None:  # only that evaluation was missing
        save(run, checkpoints, clock, wait=True)
        return "done"
    batches = announced(transfer.on_device(run.host_batches(), run.device), run)
    for batch in trace(batches) if stop is None else ():  # resumes inside an epoch
        lr = run.lr_now()
        # What this worker wants, told with the gradients; the sums come back with them, or a step later from a device.
        mine = {"bad": batch.n_bad, **stops.votes(), **events.votes(run.world.rank == 0)}
        sums = steps.train_step(run, batch, lr, **mine)  # forward, backward, exchange, update
        n_samples = min(run.global_batch, run.end - state.position)
        state.advance(n_samples)
        if state.step == first_step + 1:
            checkpoints.prepare(partial(captured, run))
        meter.add(sums, samples=n_samples, wait_s=batch.wait_s)
        run.padding.add(batch)
        quarantine.note(batch.problems, TRAIN, state.step)
        track.progress(state.step)

        votes = run.status.read()
        due = events.now(state.step, state.position, n_samples, votes)
        if due & {"eval", "save"} or agreed_stop(votes):  # what is saved has counted this step's own as well
            votes = Counter(votes) + Counter(run.status.drain())
        count_bad_samples(run, track, clock, quarantine, votes["bad"])
        stop = agreed_stop(votes)

        if news := pulse.mine.news():
            tell_of_straggler(run, track, clock, news["straggler"])
        if "log" in due:
            row = meter.reduce()  # the only host sync
            row |= {
                "lr": lr,
                **gradient_norm(run),
                **run.padding.row(),
                **run.straggler,
                **run.throughput.row(row["samples_per_s"]),
            }
            track.log({"kind": "train", **place(run, clock), **row})
        if "tell" in due:
            for line in take_all():
                track.say(line)
        if "log" in due or run.engine.update.is_told_at_once:
            count_skipped_steps(run, track, clock)
        if due & {"eval", "save"} or stop:
            count_skipped_steps(run, track, clock)  # nothing is saved that nobody was told of
            with meter.paused():
                if "eval" in due:
                    state.eval_pending = stop is not None  # a stop comes first; the evaluation is made up for on resume
                    stop = stop or evaluate_all(run, track, clock, stops, quarantine)
                if "save" in due or stop or run.is_over or is_among_best(run):
                    state.unlogged = meter.settle()
                    save(run, checkpoints, clock, wait=stop is not None or run.is_over)
        if stop or run.is_over:
            break
    pulse.mine.enter("end")
    return "done" if run.is_over and not state.eval_pending else stop or "done"


def announced(batches: Iterator[HostBatch], run: Run) -> Iterator[HostBatch]:
    """Tells who watches this worker when it waits for one, and which steps may take long: the first ones of a shape."""
    shape: torch.Size | None = None
    n_of_shape = 0
    if run.config.data.is_remote:
        pulse.mine.be_patient()
    while True:
        pulse.mine.enter("input")
        if (batch := next(batches, None)) is None:
            return
        pulse.mine.enter("log")
        # Sounds differ in length from step to step, and nothing is made ready anew for each.
        before, shape = (
            shape,
            batch.tensors["image"].shape if "image" in batch.tensors else batch.tensors["valid"].shape,
        )
        n_of_shape = n_of_shape + 1 if shape == before else 0
        pulse.mine.step(run.state.step, is_first=n_of_shape < 2, is_paced=n_of_shape > 0)
        yield batch


def check(run: Run, checkpoints: Checkpoints, say: Callable[[str], None]) -> Outcome:
    """The largest batch, one evaluation batch of every set and one save: what a run would stumble over later."""
    state = run.state
    state.position = max(0, run.end - run.config.train.global_batch)  # batches only grow
    rows = run.share_of(run.plan.step_rows(state.position, run.end))
    for batch in run.train_loader.stream([rows]):
        steps.train_step(run, batch, run.lr_now())
    state.advance(min(run.global_batch, run.end - state.position))
    count_skipped_steps(run, NullTracker(), Clock(0.0))
    if state.n_skipped:
        say("warning: that step was left out: NaN or Inf in the gradient")
    for loader in run.eval_loaders.values():
        with run.ema.in_place_of_weights() if run.ema else contextlib.nullcontext():
            evaluate(run.engine.model, run.task, loader, run.device, run.config.train, most_batches=1)
    save(run, checkpoints, Clock(0.0), wait=True)
    say("check passed: one step, one evaluation batch of each set, one save")
    return "done"


def evaluate_all(run: Run, track: Track, clock: "Clock", stops: StopRequests, quarantine: Quarantine) -> Stop | None:
    """Evaluates on every set, with the averaged weights if there are any. A stop leaves it pending and is returned."""
    state = run.state
    results = []
    for name, loader in run.eval_loaders.items():
        began = time.perf_counter()
        try:
            with pulse.mine.phase("evaluate"), run.ema.in_place_of_weights() if run.ema else contextlib.nullcontext():
                show = partial(show_progress, track, state.step, name)
                note = partial(quarantine.note, split=loader.where, step=state.step)
                result = evaluate(run.engine.model, run.task, loader, run.device, run.config.train, stops, show, note)
        except Interrupted as interrupted:
            state.eval_pending = True
            return interrupted.stop
        seconds = time.perf_counter() - began
        track.log({"kind": "eval", **place(run, clock), "set": name, **result, "eval_s": seconds})
        if "bad" in result:
            list_bad_samples(run, track, quarantine, run.config.data.eval_sets[name], loader.where)
        if not math.isfinite(result["loss"]):
            track.warn_once("evaluation", f"the loss on {name} is {result['loss']}: training has diverged")
        results.append(result)
    if results:
        judge(run, results[0])  # once all are done: a stop before that makes up for them all
    state.eval_pending = False
    if run.stops_early and (early := run.config.train.early_stop):
        message = f"{early.metric} has not improved in {early.patience} evaluations"
        track.log({"kind": "event", **place(run, clock), "event": "early_stop", "message": message})
    return None


def show_progress(track: Track, step: int, name: str, done: int, n_batches: int) -> None:
    pulse.mine.beat()
    track.progress(step, f"{name} {done}/{n_batches}")


def judge(run: Run, result: Mapping[str, float]) -> None:
    """What an evaluation of the first set means: is it the best, does it improve, should the rate fall?"""
    config, state, lower = run.config, run.state, run.task.lower_is_better
    if metric := config.checkpoint.best:
        if state.best and state.best["metric"] != metric:  # it may change between two launches
            state.best, state.ranking = None, []
        if math.isfinite(result[metric]):
            entry = {"value": result[metric], "step": state.step}
            others = [each for each in state.ranking if each["step"] != state.step]
            state.ranking = ranked([*others, entry], metric in lower)[: max(1, config.checkpoint.keep.best)]
            state.best = {"metric": metric, **state.ranking[0]}
    if early := config.train.early_stop:
        state.early_stop = early_stop.observe(state.early_stop, result[early.metric], early, early.metric in lower)
    if schedule.plateau_metric(config.schedule):
        state.plateau = schedule.observe(config.schedule, state.plateau, result, lower)


def ranked(entries: list[dict[str, Any]], lower_is_better: bool) -> list[dict[str, Any]]:
    """Best first, of equal ones the earlier."""
    sign = 1 if lower_is_better else -1
    return sorted(entries, key=lambda each: (sign * each["value"], each["step"]))


def is_among_best(run: Run) -> bool:
    """Whether this step's evaluation is one whose checkpoint is to be kept."""
    return run.state.step in best_steps(run)


def best_steps(run: Run) -> list[int]:
    return [each["step"] for each in run.state.ranking[: run.config.checkpoint.keep.best]]


def save(run: Run, checkpoints: Checkpoints, clock: "Clock", *, wait: bool) -> None:
    run.state.time_s = clock.now()
    with pulse.mine.phase("save"):
        checkpoints.save(partial(captured, run), run.state.step, best_steps=best_steps(run), wait=wait)


def captured(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return capture(run.state, run.engine, run.ema, run.description)


def gradient_norm(run: Run) -> dict[str, float]:
    """Of the last step, before it was clipped; {} where it is not clipped."""
    norm = run.engine.update.norm
    return {} if norm is None else {"grad_norm": norm.item()}


def count_bad_samples(run: Run, track: Track, clock: "Clock", quarantine: Quarantine, n_bad: int) -> None:
    """Raises UserError on all workers at once when there were too many."""
    if not n_bad:
        return
    data, state, n_different = run.config.data, run.state, quarantine.n_bad
    state.n_bad += n_bad
    list_bad_samples(run, track, quarantine, data.train, TRAIN)
    if quarantine.n_bad > n_different:  # not in each epoch again
        message = f"{quarantine.n_bad - n_different} more, {quarantine.n_bad} different samples in all"
        track.log({"kind": "event", **place(run, clock), "event": "bad_samples", "message": message})
    check_limits(data, quarantine.n_bad, min(state.position, run.plan.n_samples), quarantine.shown)


def list_bad_samples(run: Run, track: Track, quarantine: Quarantine, split: SplitConfig, where: str) -> None:
    """Writes down what the workers have found. Raises UserError on all of them if that was not to be met at all."""
    found, trouble = quarantine.settle()
    if trouble:
        track.warn_once("quarantine", f"can't write {quarantine.shown}: {trouble.strerror}")
    check_policy(run.config.data, split, where, found, quarantine.shown)
    if found:
        how = run.config.data.bad_sample
        message = f"a sample could not be used ({how}): {shown(found[0])}; {quarantine.shown} lists all"
        track.warn_once("bad samples", message)


def count_skipped_steps(run: Run, track: Track, clock: "Clock") -> None:
    """Tells of steps left out for a NaN or Inf; raises UserError on all workers at once when they don't end."""
    state, config = run.state, run.config.train
    before = state.n_skipped
    state.n_skipped, state.n_skipped_in_a_row = run.engine.update.skipped.totals()
    if state.n_skipped == before:
        return
    message = f"{state.n_skipped - before} left out for a NaN or Inf in the gradient, {state.n_skipped} in all"
    track.log({"kind": "event", **place(run, clock), "event": "skipped_steps", "message": message})
    track.warn_once("skipped steps", f"a step was left out at step {state.step}: NaN or Inf in the gradient")
    if config.nonfinite == "stop" or state.n_skipped_in_a_row >= config.nonfinite_limit:
        raise UserError(
            f"NaN or Inf in the gradient, {state.n_skipped} times up to step {state.step}, "
            f"the last {state.n_skipped_in_a_row} steps in a row",
            where=f"train.nonfinite: {config.nonfinite}",
            fix="Lower optim.lr, set train.clip_norm or a longer schedule.warmup_steps, or train with precision: fp32.",
        )


def tell_of_straggler(run: Run, track: Track, clock: "Clock", found: Mapping[str, Any]) -> None:
    """`found`: as it is seen from outside (distdl/watch/straggler.py); empty once no worker holds the others up."""
    if run.straggler.get("straggler_rank") != found.get("rank"):
        message = found["message"] if found else "no worker holds the others up any more"
        track.log({"kind": "event", **place(run, clock), "event": "straggler", "message": message})
    run.straggler = {"straggler_rank": found["rank"], "straggler_cost": found["cost"]} if found else {}


def place(run: Run, clock: "Clock") -> Mapping[str, Any]:
    """Where in the run a row of metrics stands."""
    state = run.state
    return {"step": state.step, "epoch": run.epoch, "samples": state.position, "time_s": round(clock.now(), 3)}


class Clock:
    """Seconds of training since the start of the run, over restarts."""

    def __init__(self, seconds_before: float) -> None:
        self._began = time.monotonic() - seconds_before

    def now(self) -> float:
        return time.monotonic() - self._began
