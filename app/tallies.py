"""Counters and histograms for the event loop alone: they count something in every request.

Plain dictionaries and lists, because prometheus_client's own take a lock each time.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10)
# Of paths and methods that the service doesn't have: anyone can make up any number of them.
OTHER: Final = "other"


class Tally(Collector):
    """A counter with one label. `times` has its values."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self.times: defaultdict[str | int, int] = defaultdict(int)
        self._name = name
        self._documentation = documentation
        self._label = label

    def expect(self, values: Iterable[str | int]) -> None:
        """Show these from the start, with 0: a counter that begins at 1 has no increase."""
        for value in values:
            self.times[value] += 0

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, times in list(self.times.items()):
            family.add_metric([str(value)], times)
        yield family


class Times:
    """The times of one kind of request: how many fell into each bucket, and their sum."""

    __slots__ = ("in_bucket", "seconds")

    def __init__(self) -> None:
        self.in_bucket = [0] * (len(REQUEST_SECONDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.in_bucket[bisect_left(REQUEST_SECONDS, seconds)] += 1
        self.seconds += seconds


class RequestTimes(Collector):
    """Requests and their time, by route, method and class of status (`2xx`)."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._methods: defaultdict[str, set[str]] = defaultdict(set)  # by route
        self._times: dict[tuple[str, str, str], Times] = {}
        for status in (200, 300, 400, 500):
            for method in ("GET", OTHER):
                self.times_of(OTHER, method, status)

    def expect(self, route: str, methods: Iterable[str], *, redirects: bool = False) -> None:
        """Show the requests of this route from the start, with 0."""
        statuses = (200, 300, 400, 500) if redirects else (200, 400, 500)
        for method in methods:
            self._methods[route].add(method)
            for status in statuses:
                self.times_of(route, method, status)
        self.times_of(route, OTHER, 400)  # of a method that it doesn't have

    def times_of(self, route: str, method: str, status: int) -> Times:
        """The times of requests with these labels, as they are."""
        labels = (route, method, f"{status // 100}xx")
        times = self._times.get(labels)
        if times is None:
            times = self._times[labels] = Times()
        return times

    def add(self, route: str | None, path: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `route` is its path's template; without one, `path` may be a route."""
        if method == "HEAD":
            method = "GET"  # as it is answered
        route = route or path
        if route not in self._methods:
            route, known = OTHER, {"GET"}
        else:
            known = self._methods[route]
        self.times_of(route, method if method in known else OTHER, status).add(seconds)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        labels = ["route", "method", "status"]
        family = HistogramMetricFamily(self._name, self._documentation, labels=labels)
        bounds = [*map(floatToGoString, REQUEST_SECONDS), "+Inf"]
        for values, times in list(self._times.items()):
            buckets, total = [], 0
            for bound, number in zip(bounds, times.in_bucket, strict=True):
                total += number
                buckets.append((bound, total))
            family.add_metric(values, buckets, times.seconds)
        yield family
