"""`python -m bench.rivals.chart figures.json`: what `--json` wrote, table and chart.

The table goes to stdout as Markdown, the chart to `docs/pictures/speed.svg`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

OUT: Final = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "speed.svg"
NAMES: Final = {
    "mesh": "task mesh",
    "celery": "Celery",
    "dramatiq": "Dramatiq",
    "taskiq": "Taskiq (streams)",
    "arq": "arq",
    "saq": "SAQ",
    "streaq": "streaQ",
    "docket": "docket",
    "rq": "RQ",
    "huey": "Huey",
    "bullmq": "BullMQ (Node)",
    "sidekiq": "Sidekiq (Ruby)",
}
# Column: its title, how a figure is written, whether more is better.
COLUMNS: Final = {
    "enqueue": ("enqueue, tasks/s", "{:,.0f}", True),
    "enqueue_many": ("in bulk, tasks/s", "{:,.0f}", True),
    "drain": ("drain, tasks/s", "{:,.0f}", True),
    "trip_p50": ("round trip p50, ms", "{:,.2f}", False),
    "trip_p99": ("p99, ms", "{:,.2f}", False),
    "memory": ("bytes per task", "{:,.0f}", False),
}
PANELS: Final = ("drain", "enqueue", "trip_p50")
_BAR, _GAP, _LEFT, _WIDTH, _HEAD = 16, 6, 130, 720, 34
_STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600 } .bar { fill: #a8b3bf } .ours { fill: #1a7f5a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .bar { fill: #57606a } .ours { fill: #3fb984 }
}
"""

Medians = dict[str, dict[str, float]]


def table(medians: Medians) -> str:
    """The medians as a Markdown table, the fastest drain first."""
    heads = [title for title, _, _ in COLUMNS.values()]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for name in sorted(medians, key=lambda each: -medians[each]["drain"]):
        cells = [
            form.format(medians[name][field]) for field, (_, form, _) in COLUMNS.items()
        ]
        label = NAMES.get(name, name)
        label = f"**{label}**" if name == "mesh" else label
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(medians: Medians) -> str:
    """Bars of three columns, one below the other, as SVG that follows the theme."""
    parts: list[str] = []
    top = 0
    for field in PANELS:
        title, form, more = COLUMNS[field]
        note = "more is better" if more else "less is better"
        top += _HEAD
        parts.append(
            f'<text class="head" x="0" y="{top - 12}">{escape(title)} ({note})</text>'
        )
        most = _scale([figures[field] for figures in medians.values()])
        sign = -1 if more else 1
        for name in sorted(medians, key=lambda each: sign * medians[each][field]):
            value = medians[name][field]
            share = min(value / most, 1.0)
            long = max(1, round((_WIDTH - _LEFT - 90) * share))
            told = form.format(value) + (" »" if value > most else "")
            middle = top + _BAR - 4
            kind = "bar ours" if name == "mesh" else "bar"
            parts.append(
                f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">'
                f"{escape(NAMES.get(name, name))}</text>"
                f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{long}" '
                f'height="{_BAR}" rx="2"/>'
                f'<text x="{_LEFT + long + 6}" y="{middle}">{told}</text>'
            )
            top += _BAR + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" '
        f'role="img" aria-label="Speed of the task mesh beside other queues">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _scale(values: list[float]) -> float:
    """What a whole bar stands for: one far out does not make the others dots."""
    *_, second, most = [0.0, *sorted(values)]
    return second * 1.1 if most > 3 * second > 0 and len(values) > 3 else most


def main() -> int:
    """The exit code: 2 without a file of figures."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    facts: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    OUT.write_text(chart(facts["medians"]))
    print(table(facts["medians"]))
    print(f"\nA bare redis-py consumer drains {facts['bare_drain']:,.0f} tasks/s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
