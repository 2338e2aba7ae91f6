"""What is said of a host that shards are read from: that nothing comes from it, that it answers again, what it took.

    waits(why) before a request is made again, answers()  ->  of trouble that lasts, a line when it begins and ends
    waits(why), came(bytes)                               ->  take(): a line about all since the last one

There is one account of a host in a process, for all its datasets and threads. A host that fails now and then, between
reads that succeed, is in no trouble: that is only counted.
"""

import sys
import threading
import time
from collections import Counter

_SHORT_S = 1.0  # what is over by then is not worth a line


class Account:
    def __init__(self, host: str) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._failing_since: float | None = None
        self._is_told = False
        self._waiting_until = 0.0
        self._begin()

    def _begin(self) -> None:
        self._n_requests = self._n_bytes = 0
        self._again: Counter[str] = Counter()
        self._waited_s = 0.0
        self._is_full = False

    def came(self, n_bytes: int) -> None:
        with self._lock:
            self._n_requests += 1
            self._n_bytes += n_bytes

    def answers(self) -> None:
        """As it should, even if it is that there is no such file."""
        with self._lock:
            since, was_told = self._failing_since, self._is_told
            self._failing_since, self._is_told = None, False
        if was_told and since is not None:
            _say(f"{self.host} answers again, after {time.monotonic() - since:.0f} s")

    def waits(self, reason: str, wait_s: float, give_up: float) -> None:
        """A request is made again in `wait_s`, the last time at `give_up` (time.monotonic)."""
        now = time.monotonic()
        with self._lock:
            self._n_requests += 1
            self._again[reason.partition(":")[0]] += 1  # behind it stand numbers
            self._waited_s += max(0.0, now + wait_s - max(now, self._waiting_until))  # many wait side by side
            self._waiting_until = max(now + wait_s, self._waiting_until)
            self._failing_since = now if self._failing_since is None else self._failing_since
            is_new = not self._is_told and now - self._failing_since > _SHORT_S
            self._is_told |= is_new
        if is_new:
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + give_up - now))
            _say(f"nothing comes from {self.host} ({reason}): trying again until {until}")

    def no_room(self) -> None:
        """In the cache, for a shard of this host."""
        self._is_full = True

    def take(self) -> str:
        """What it took since the last call, in a line; "" where nothing was asked for."""
        with self._lock:
            n_bytes, n_requests, again, waited_s = self._n_bytes, self._n_requests, self._again, self._waited_s
            is_full = self._is_full
            self._begin()
        if not n_requests:
            return ""
        parts = [f"shards from {self.host}: {n_bytes / 1e6:,.1f} MB in {n_requests:,} requests"]
        if again:
            reasons = "; ".join(reason for reason, _ in again.most_common())
            parts.append(f"{again.total():,} had to be asked again ({reasons}), {waited_s:.1f} s waited")
        if is_full:
            parts.append("the cache has no room for all of them (data.remote.cache_gb)")
        return ", ".join(parts)


_accounts: dict[str, Account] = {}
_accounts_lock = threading.Lock()


def account_of(host: str) -> Account:
    """The one of this process for a host."""
    with _accounts_lock:
        return _accounts.setdefault(host, Account(host))


def take_all() -> list[str]:
    """A line for each host that was asked for anything since the last call."""
    with _accounts_lock:
        accounts = list(_accounts.values())
    return [line for account in accounts if (line := account.take())]


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
