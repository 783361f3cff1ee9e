# What is counted, as Prometheus reads it. It owns the words for each figure and nothing else.
from collections.abc import Mapping

GAUGES = frozenset({"connections", "capacity", "cold", "rooms", "users", "held_bytes", "http_connections"})


def exposition(figures: Mapping[str, int], labels: Mapping[str, str]) -> str:
    """The text format, one family for each figure; what comes as `closed_slow` is `edge_closed_total{cause="slow"}`."""
    own = "".join(f',{name}="{value}"' for name, value in labels.items())
    families: dict[str, list[str]] = {}
    for name, value in figures.items():
        family, _, label = name.partition("_")
        if name in GAUGES:
            key, text, kind = name, own[1:], "gauge"
        elif family in LABELS:
            kind = "gauge" if family == "viewers" else "counter"
            key, text = family, f'{LABELS[family]}="{label}"{own}'
        else:
            key, text, kind = name, own[1:], "counter"
        key = f"edge_{key}" + ("_total" if kind == "counter" else "")
        families.setdefault(key, [f"# TYPE {key} {kind}"]).append(
            f"{key}{{{text}}} {value}" if text else f"{key} {value}"
        )
    return "".join("\n".join(lines) + "\n" for lines in families.values())


LABELS = {
    "refused": "status",
    "closed": "cause",
    "joined": "stream",
    "encoded": "encoding",
    "viewers": "encoding",
    "frames": "lane",
}
"""Figures that are one family with a label: the word before the underscore, and what the rest of the name is."""
