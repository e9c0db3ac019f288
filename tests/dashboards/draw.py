"""Draws the chart's dashboards from what their queries gave in a run: DASHBOARDS (Grafana's JSON) RECORDED TARGET.

What Grafana does with a panel is done here in small: its place in the grid, unit, legend, stacking and threshold.
"""
import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

CELL = 0.55  # Inches of one of the grid's 24 columns.
LINE = 0.34  # Inches of one of its rows.
COLOURS = ["#3274a1", "#e1812c", "#3a923a", "#c03d3e", "#9372b2", "#845b53", "#d684bd", "#7f7f7f", "#a9aa35", "#2eabb8"]
LEGENDS = 8


def number(value):
    """Three digits of a number."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(value, unit):
    """A value as Grafana writes it in this unit."""
    scaled = {
        "s": [(1, "s"), (1e-3, "ms"), (1e-6, "µs")],
        "bytes": [(2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")],
        "decmbytes": [(1e3, "GB"), (1, "MB")],
    }
    if unit == "percentunit":
        return f"{number(100 * value)} %"
    if unit in scaled:
        factor, name = next((s for s in scaled[unit] if abs(value) >= s[0]), scaled[unit][0 if unit == "s" and not value else -1])
        return f"{number(value / factor)} {name}"
    suffix = {"ops": " ops/s", "reqps": " req/s", "percent": " %", "watt": " W"}.get(unit, "")
    return number(value) + suffix


def legend(pattern, labels):
    """The name of a series."""
    for name, value in labels.items():
        pattern = pattern.replace("{{" + name + "}}", value)
    return pattern


def series_of(panel, recorded):
    """Name, times since the beginning and values of every series of a panel."""
    begin = recorded["span"]["start"]
    for target, found in zip(panel["targets"], recorded["panels"].get(str(panel["id"]), [])):
        for series in found:
            times = [t - begin for t, _ in series["values"]]
            yield legend(target["legendFormat"], series["metric"]), series["metric"], times, [float(v) for _, v in series["values"]]


def clock(seconds, _):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def draw_lines(axes, panel, recorded, found):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    span = recorded["span"]
    length = span["end"] - span["start"]
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    grid = [i * span["step"] for i in range(int(length / span["step"]) + 1)]
    below = [0.0] * len(grid)
    for i, (name, _, times, values) in enumerate(found):
        colour = COLOURS[i % len(COLOURS)]
        at = {round(t / span["step"]): v for t, v in zip(times, values)}
        # A gap of the recording is one of the line.
        line = [at.get(j, math.nan) for j in range(len(grid))]
        if stacked:
            top = [b + (0 if math.isnan(v) else v) for b, v in zip(below, line)]
            axes.fill_between(grid, below, top, color=colour, alpha=0.4, linewidth=0)
            axes.plot(grid, [t if not math.isnan(v) else math.nan for t, v in zip(top, line)], color=colour, linewidth=1, label=name)
            below = top
        else:
            lone = len(times) == 1
            axes.plot(grid, line, color=colour, linewidth=1.2, label=name, marker="o" if lone else None, markersize=3)
    axes.set_xlim(0, length)
    low, high = axes.get_ylim()
    flat = all(v == 0 for _, _, _, values in found for v in values)
    high = 1 if flat else high
    # A line of zeros is not hidden by the axis.
    axes.set_ylim(min(-0.02 * high, 0 if flat else low), high)
    axes.xaxis.set_major_formatter(FuncFormatter(clock))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 1.5, 3, 6, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=6, length=2)
    axes.grid(alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    more = len(names) - LEGENDS
    if more > 0:
        handles, names = handles[:LEGENDS], [*names[: LEGENDS - 1], f"{names[LEGENDS - 1]} and {more} more"]
    if any(names):
        columns = 2 if max(len(n) for n in names) > 16 else 4
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(-0.12, -0.12), ncol=columns, fontsize=5.5, frameon=False,
                    handlelength=1.2, columnspacing=1.2, labelspacing=0.25)


def draw_number(axes, panel, recorded, found):
    """The newest value of every series, as large as there is room."""
    axes.axis("off")
    defaults = panel["fieldConfig"]["defaults"]
    end = max(times[-1] for _, _, times, _ in found)
    # What had ended before the others is no newest value.
    newest = [(name, values[-1]) for name, _, times, values in found if times[-1] > end - recorded["span"]["step"] / 2]
    if panel["options"].get("textMode") == "name":
        axes.text(0.5, 0.45, ", ".join(name for name, _ in newest), ha="center", va="center", fontsize=13, color="#37872d", transform=axes.transAxes)
        return
    for i, (name, value) in enumerate(newest):
        red = any(step["value"] is not None and value >= step["value"] and step["color"] == "red" for step in defaults["thresholds"]["steps"])
        middle = (i + 0.5) / len(newest)
        axes.text(middle, 0.58, shown(value, defaults["unit"]), ha="center", va="center", fontsize=15 if len(newest) < 3 else 10,
                  color="#c4162a" if red else "#37872d", transform=axes.transAxes)
        axes.text(middle, 0.16, name, ha="center", va="center", fontsize=6, transform=axes.transAxes)


def draw_table(axes, panel, recorded, found):
    """The last value of every series with its labels; the run is over, so it need not be the newest."""
    axes.axis("off")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    hidden = {"__name__", "instance", "job"}
    names = sorted({name for _, labels, _, _ in found for name in labels if name not in hidden})
    rows = [[labels.get(n, "") for n in names] + [shown(values[-1], unit)] for _, labels, _, values in found]
    height = min(1.0, 0.13 * (len(rows) + 1))
    table = axes.table(rows, colLabels=[*names, "value"], cellLoc="left", colLoc="left", bbox=[0.005, 1 - height, 0.99, height], edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(7)


DRAWN = {"timeseries": draw_lines, "stat": draw_number, "table": draw_table}


def draw(dashboard, recorded, target):
    panels = dashboard["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels) * LINE + 0.6
    width = 24 * CELL
    figure = plt.figure(figsize=(width, height), facecolor="#f4f5f5")
    place = lambda x, y: (x / width, 1 - y / height)
    job = f"   ·   TransferJob {recorded['job']}" if any(v["name"] == "transferjob" for v in dashboard["templating"]["list"]) else ""
    figure.text(*place(0.15, 0.32), dashboard["title"] + job, fontsize=13, weight="bold", va="center")
    figure.text(*place(width - 0.15, 0.32), "recorded in a test run; time in minutes", fontsize=7, va="center", ha="right", color="#555555")
    for panel in panels:
        grid = panel["gridPos"]
        left, top = grid["x"] * CELL, grid["y"] * LINE + 0.6
        if panel["type"] == "row":
            figure.text(*place(left + 0.15, top + LINE / 2), panel["title"], fontsize=10, weight="bold", va="center")
            continue
        right, bottom = left + grid["w"] * CELL, top + grid["h"] * LINE
        frame = (left + 0.06, bottom - 0.05, right - left - 0.12, bottom - top - 0.1)
        figure.add_artist(plt.Rectangle(place(frame[0], frame[1]), frame[2] / width, frame[3] / height, facecolor="white", edgecolor="#d8d9da",
                                        linewidth=0.6, zorder=-1))
        figure.text(*place(left + 0.16, top + 0.2), panel["title"], fontsize=8, weight="bold", va="center")
        found = list(series_of(panel, recorded))
        lines = panel["type"] == "timeseries"
        inner = (left + (0.75 if lines else 0.15), bottom - (0.85 if lines else 0.15), right - left - (1.0 if lines else 0.3),
                 bottom - top - (1.25 if lines else 0.5))
        axes = figure.add_axes((inner[0] / width, 1 - inner[1] / height, inner[2] / width, inner[3] / height))
        if found:
            DRAWN[panel["type"]](axes, panel, recorded, found)
        else:
            axes.axis("off")
            why = "no data: this run had no GPU" if "DCGM_" in panel["targets"][0]["expr"] else "no data"
            axes.text(0.5, 0.5, why, ha="center", va="center", fontsize=8, color="#888888", transform=axes.transAxes)
    figure.savefig(target, dpi=88)
    plt.close(figure)
    # A palette is a third of the bytes.
    Image.open(target).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} KiB")


def main():
    dashboards, recorded, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    plt.rcParams["font.family"] = "DejaVu Sans"
    for name in ("operator", "fleet", "job"):
        load = lambda folder: json.loads((folder / f"{name}.json").read_text())
        draw(load(dashboards), load(recorded), target / f"{name}.png")


main()
