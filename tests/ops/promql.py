"""The metrics and label values that PromQL names, for comparing them with what is exposed."""

import re
from collections.abc import Iterator
from typing import Final

WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset"})
# Of others: Prometheus itself, node_exporter, the kubelet and blackbox_exporter.
FOREIGN: Final = frozenset(
    {
        "up",
        "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes",
        "kubelet_volume_stats_available_bytes",
        "kubelet_volume_stats_capacity_bytes",
        "probe_success",
        "probe_ssl_earliest_cert_expiry",
    }
)


def metrics_in(query: str) -> set[str]:
    """Every metric's name in a query."""
    named = re.findall(r'__name__=~?"([^"]+)"', query)
    # Drop what may hold other names: texts, labels, durations.
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\boffset \w+", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", "", bare)
    words = re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)
    return {*words, *(name for some in named for name in some.split("|"))} - WORDS


def values_in(query: str) -> Iterator[tuple[str, str, str]]:
    """Each metric of ours with a label and a value that the query wants it to have."""
    for metric, labels in re.findall(r"\b(dlr_\w+)\{([^}]*)\}", query):
        for label, values in re.findall(r'(\w+)=~?"([^"]*)"', labels):
            if label != "job":
                for value in values.split("|"):
                    yield metric, label, value.removesuffix(".*")


def names_exposed(page: str) -> set[str]:
    """Every name that a query can use, of the metrics on a page of `/metrics`."""
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    parts = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + end for name, kind in kinds for end in parts.get(kind, ("",))}
