# SPDX-License-Identifier: Apache-2.0
"""The figure: for each group, what a program's neighbours cost it in each row. SVG, written by hand. Pure."""
from xml.sax.saxutils import escape

from .figures import sums

WIDTH, BAR, GAP, LEFT, LABEL = 900, 14, 26, 190, 12
SCALE = 300  # pixels for 1.0
COLOURS = ("#3b6fb6", "#d08b2c", "#5b9b58", "#a65a8c", "#7a7a7a", "#b8483e", "#4aa3a3", "#8a7f3d")
WORST = 4.0  # longer bars are cut here, with their number beside


def text(x, y, words, size=LABEL, anchor="start", weight="normal"):
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>")


def bar(x, y, value, scale, colour, words):
    width = max(1.0, min(value, WORST) * scale)
    return (f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>'
            + text(x + width + 4, y + BAR - 4, f"{value:.2f} {words}", 10))


def panel(entries, group, top):
    """(elements, height): relative rates stacked to a sum at the left, p99 step times at the right."""
    parts = [text(10, top + 14, group, 14, weight="bold"), text(LEFT, top + 14, "rate, relative to alone (stacked)", 10),
             text(LEFT + SCALE * 1.5, top + 14, "p99 step, relative to alone", 10)]
    y = top + 24
    rows = dict.fromkeys(entry["row"] for entry in entries if entry["group"] == group and len(entry["works"]) > 1)
    total = sums(entries)
    for row in rows:
        shown = [e for e in entries if (e["row"], e["group"]) == (row, group) and len(e["works"]) > 1]
        parts.append(text(LEFT - 8, y + BAR - 3, row, anchor="end"))
        x = float(LEFT)
        for entry in shown:
            width = (entry.get("rate_rel") or 0) * SCALE / 2
            parts.append(f'<rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{BAR - 2}" '
                         f'fill="{COLOURS[entry["index"] % len(COLOURS)]}"><title>{escape(entry["program"])}</title></rect>')
            x += width
        if (row, group) in total:
            parts.append(text(x + 4, y + BAR - 4, f"{total[row, group]:.2f}", 10))
        worst = [e for e in shown if e.get("step_p99_ms_rel")]
        latency = worst[:1]
        for entry in latency:
            parts.append(bar(LEFT + SCALE * 1.5, y, entry["step_p99_ms_rel"], 50, COLOURS[entry["index"] % len(COLOURS)],
                             entry["program"]))
        y += BAR + 4
    return parts, y - top + GAP


def svg(entries, title):
    """The whole file."""
    parts, y = [text(10, 22, title, 15, weight="bold")], 36
    for group in dict.fromkeys(entry["group"] for entry in entries):
        more, height = panel(entries, group, y)
        parts += more
        y += height
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif">'
            f'<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n")
