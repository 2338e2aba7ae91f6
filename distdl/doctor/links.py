"""What the probes between machines mean: who does not reach whom, which links are slow or late, whose clock is off.

A link is an ordered pair of machines, (from, to), since each direction may have faults of its own. Machines are told
apart by the rank of their first worker; `names` says how a reader knows them.
"""

import itertools
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

from distdl.doctor import check
from distdl.doctor.check import Check

Link = tuple[int, int]

_LEAST_BITS_PER_S = 100e6
_CLEARLY_SLOWER = 5.0  # times
_LATE_S = 1e-3
_CLOCK_S = 1.0
_MOST_DETAILS = 12


def rounds(places: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Every pair once, in as few rounds as can be in which nobody is in two pairs (the circle method)."""
    ring: list[int | None] = [*places, *([None] if len(places) % 2 else [])]
    for _ in range(len(ring) - 1):
        pairs = [(ring[i], ring[-1 - i]) for i in range(len(ring) // 2)]
        yield [(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None]
        ring[1:] = [ring[-1], *ring[1:-1]]


# --- who reaches whom ---


def check_reach(
    names: Mapping[int, str], answered: Collection[Link], heard: Collection[Link], bad: Collection[int] = ()
) -> Check:
    """`answered`: who got an answer from whom. `heard`: whose questions came to whom. `bad`: without an address."""
    lost = []
    for a, b in itertools.combinations(names, 2):
        if {a, b} & set(bad) or works(a, b, answered):
            continue
        there, back = (a, b) in heard, (b, a) in heard
        if there == back:
            lost.append(f"{names[a]} and {names[b]} do not reach each other")
        else:
            source, target = (a, b) if there else (b, a)
            one_way = f"what {names[source]} sends arrives at {names[target]}, but nothing comes back"
            lost.append(f"the link is one-way: {one_way}")
    n_pairs = len(names) * (len(names) - 1) // 2
    if not lost:
        who = "both machines" if n_pairs == 1 else f"all {n_pairs} pairs of machines"
        return check.ok("reach", f"{who} reach each other both ways", values={"pairs": n_pairs})
    fix = "Look at the way back (`ip route get ADDRESS` there), at firewalls, and at net.ipv4.conf.all.rp_filter."
    if len(lost) == 1:
        return check.failed("reach", lost[0], fix, values={"pairs": n_pairs, "lost": lost})
    text = f"{len(lost)} of {n_pairs} pairs of machines don't reach each other both ways"
    return check.failed("reach", text, fix, details=lost, values={"pairs": n_pairs, "lost": lost})


def works(a: int, b: int, answered: Collection[Link]) -> bool:
    return (a, b) in answered and (b, a) in answered


# --- rates ---


def check_rates(names: Mapping[int, str], rates: Mapping[Link, float]) -> Check:
    """`rates`: bits a second. A machine is named where all that leaves it or comes to it is slow, else the link."""
    if not rates:
        return check.warning("bandwidth", "of no link, since none works both ways", "Mend that first.")
    usual = _usual(rates)
    limit = max(_LEAST_BITS_PER_S, usual / _CLEARLY_SLOWER)
    slow = {link for link, rate in rates.items() if rate < limit}
    values = {f"{names[a]} -> {names[b]}": round(rate) for (a, b), rate in rates.items()}
    listed = [f"{name}: {show(rate)}" for name, rate in sorted(values.items(), key=lambda each: each[1])]
    details = listed[:_MOST_DETAILS] + [f"... and {len(listed) - _MOST_DETAILS} more"] * (len(listed) > _MOST_DETAILS)
    if not slow:
        text = f"{show(min(rates.values()))} to {show(max(rates.values()))} each way, one connection"
        return check.ok("bandwidth", text, details=details, values={"bits_per_s": values})
    said = list(_slow(names, rates, slow))
    others = [rate for link, rate in rates.items() if link not in slow]
    compared = f"where the others have {show(statistics.median(others))}" if others else "less than 100 Mbit/s"
    fix = "Look at its cable and port, at the speed agreed on (ethtool), and at what else uses it; or leave it out."
    text, found = f"{'; '.join(said)}, {compared}", {"bits_per_s": values, "slow": said}
    return check.warning("bandwidth", text, fix, details=details, values=found)


def _slow(names: Mapping[int, str], rates: Mapping[Link, float], slow: set[Link]) -> Iterator[str]:
    """First the machines whose fault it seems to be, then what they don't explain."""
    left = set(slow)
    if len(names) > 2 and len(slow) < len(rates):
        for place in names:
            sent, received = ({link for link in rates if link[end] == place} for end in (0, 1))
            out, into = bool(sent) and sent <= slow, bool(received) and received <= slow
            if not (out or into) or not (sent | received) & left:
                continue
            mine = (sent if out else set()) | (received if into else set())
            direction = "both ways" if out and into else "what it sends" if out else "what it receives"
            yield f"{names[place]} is slow ({direction}): {show(max(rates[link] for link in mine))}"
            left -= mine
    for a, b in sorted(left):
        yield f"{names[a]} -> {names[b]} is slow: {show(rates[a, b])}"


def _usual(rates: Mapping[Link, float]) -> float:
    """Of the good half: with three machines, one slow one has two of three links."""
    ordered = sorted(rates.values())
    return statistics.median(ordered[len(ordered) // 2 :])


def show(bits_per_s: float) -> str:
    return f"{bits_per_s / 1e9:.3g} Gbit/s" if bits_per_s >= 1e9 else f"{bits_per_s / 1e6:.3g} Mbit/s"


# --- latency and clocks ---


def check_latency(names: Mapping[int, str], round_trips_s: Mapping[Link, float]) -> Check:
    if not round_trips_s:
        return check.warning("latency", "of no link, since none works both ways", "Mend that first.")
    usual = statistics.median(round_trips_s.values())
    late = {
        (min(link), max(link)): seconds
        for link, seconds in round_trips_s.items()
        if seconds > max(_LATE_S, _CLEARLY_SLOWER * usual)
    }
    values = {f"{names[a]} -> {names[b]}": seconds for (a, b), seconds in round_trips_s.items()}
    span = f"{1e3 * min(values.values()):.2g} to {1e3 * max(values.values()):.2g} ms there and back"
    if not late:
        return check.ok("latency", span, values={"round_trip_s": values})
    listed = ", ".join(f"{names[a]} - {names[b]} {1e3 * seconds:.2g} ms" for (a, b), seconds in late.items())
    fix = "Is it on the same switch as the others? Is something else sending by it?"
    text = f"{listed}, where {1e3 * usual:.2g} ms are usual"
    return check.warning("latency", text, fix, values={"round_trip_s": values})


def check_clocks(names: Mapping[int, str], ahead_s: Mapping[int, float]) -> Check:
    """`ahead_s`: of the first machine's clock."""
    off = {place: seconds for place, seconds in ahead_s.items() if abs(seconds) > _CLOCK_S}
    values = {names[place]: seconds for place, seconds in ahead_s.items()}
    if off:
        listed = ", ".join(
            f"{names[place]} is {abs(s):.3g} s {'ahead of' if s > 0 else 'behind'}" for place, s in off.items()
        )
        fix = "Run an NTP client there (chronyd, systemd-timesyncd): times in logs and file dates are compared."
        return check.warning("clocks", f"{listed} {names[min(names)]}", fix, values={"ahead_s": values})
    most = max((abs(seconds) for seconds in ahead_s.values()), default=0.0)
    return check.ok("clocks", f"within {1e3 * most:.2g} ms" if ahead_s else "not compared", values={"ahead_s": values})
