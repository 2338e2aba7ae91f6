"""Ending a run whose metric has stopped improving. The state is what a checkpoint keeps: {"best", "n_bad"}."""

from typing import Any

from distdl.config.schema import EarlyStopConfig


def observe(
    state: dict[str, Any] | None, value: float, config: EarlyStopConfig, lower_is_better: bool
) -> dict[str, Any]:
    """After one more evaluation. A change of at most min_delta is none, and neither is NaN."""
    if state is None:
        return {"best": value, "n_bad": 0}
    gain = state["best"] - value if lower_is_better else value - state["best"]
    if gain > config.min_delta or state["best"] != state["best"]:
        return {"best": value, "n_bad": 0}
    return {"best": state["best"], "n_bad": state["n_bad"] + 1}
