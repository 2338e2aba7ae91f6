"""Ending a run whose metric has stopped improving. Its state, {"metric", "best", "n_bad"}, is kept in checkpoints."""

import math
from typing import Any

from distdl.config.schema import EarlyStopConfig


def observe(
    state: dict[str, Any] | None, value: float, config: EarlyStopConfig, lower_is_better: bool
) -> dict[str, Any]:
    """After one more evaluation. A change of at most min_delta is none, and neither is NaN."""
    if state is None or state["metric"] != config.metric:  # which may change between two launches
        state = {"metric": config.metric, "best": None, "n_bad": 0}
    best = state["best"]
    if math.isfinite(value) and (
        best is None or (best - value if lower_is_better else value - best) > config.min_delta
    ):
        return {**state, "best": value, "n_bad": 0}
    return {**state, "n_bad": state["n_bad"] + 1}
