"""The summary of an evaluation as Markdown: one table for all benchmarks, base and tuned side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BASE, TUNED = "base", "tuned"


def markdown(summary: Mapping[str, Any]) -> str:
    """A page of the JSON summary; see `evaluate.session.finish` for its form."""
    models = summary["models"]
    lines = ["# Evaluation", "", *(f"- {role}: `{path}`" for role, path in models.items())]
    lines += [f"- {name}: {value}" for name, value in summary["settings"].items() if value not in ("", None)]
    lines += ["", main_table(summary), *_notes(summary)]
    lines += _answers_table(summary)
    for name, entry in summary["benchmarks"].items():
        lines += _subset_tables(name, entry, list(models))
    return "\n".join(lines) + "\n"


def main_table(summary: Mapping[str, Any]) -> str:
    """A line a benchmark and k, all models side by side."""
    head = "Accuracy in %, 95 % interval in brackets; n is the number of items. An item without a response is wrong."
    return "\n".join([head, "", *_table(*_main_table(summary, list(summary["models"])))])


def percent(rate: Mapping[str, float]) -> str:
    """A rate with its interval, such as `42.0 [38.1, 46.0]`."""
    return f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def _main_table(summary: Mapping[str, Any], roles: list[str]) -> tuple[list[str], list[list[str]]]:
    head = ["benchmark", "n", "", *roles]
    paired = len(roles) > 1
    rows = []
    for name, entry in summary["benchmarks"].items():
        first = entry["models"][roles[0]]
        for k in first["pass_at_k"]:
            rates = [percent(entry["models"][role]["pass_at_k"][k]) for role in roles]
            rows.append([name, _count(entry, roles), f"pass@{k}", *rates])
            if paired:
                rows[-1] += _difference(entry["paired"] if k == "1" else None)
    return (head + ["difference", "p"] if paired else head), rows


def _count(entry: Mapping[str, Any], roles: list[str]) -> str:
    """Items, and how many of them got no response."""
    missing = {role: entry["models"][role]["unanswered"] for role in roles}
    reported = [f"{role}: {count}" if len(roles) > 1 else str(count) for role, count in missing.items() if count]
    items = str(entry["models"][roles[0]]["items"])
    return f"{items} ({', '.join(reported)} without a response)" if reported else items


def _difference(paired: Mapping[str, Any] | None) -> list[str]:
    if paired is None:
        return ["", ""]
    bounds = f"[{100 * paired['low']:+.1f}, {100 * paired['high']:+.1f}]"
    return [f"{100 * paired['difference']:+.1f} {bounds}", f"{paired['p']:.3g}"]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _answers_table(summary: Mapping[str, Any]) -> list[str]:
    """How many responses there are, and what is wrong with them as responses."""
    head = ["benchmark", "model", "responses", "cut off", "without an answer", "items without a response"]
    rows = [
        [name, role, *(str(model[key]) for key in ("samples", "truncated", "without_answer", "unanswered"))]
        for name, entry in summary["benchmarks"].items()
        for role, model in entry["models"].items()
    ]
    return ["", "Responses. An item without one counts as wrong.", "", *_table(head, rows)]


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """What the tables do not say: tests, rows left out, the judge."""
    notes = []
    for name, entry in summary["benchmarks"].items():
        if entry["left_out"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in entry["left_out"].items())
            notes.append(f"{name}: {sum(entry['left_out'].values())} malformed rows left out ({kinds}).")
        if entry["paired"]:
            paired = entry["paired"]
            notes.append(f"{name}: {paired['won']} items won, {paired['lost']} lost; p by {paired['test']}.")
        notes += [
            f"{name}, {role}: {_judge_note(model['judge'])}"
            for role, model in entry["models"].items()
            if "judge" in model
        ]
    if summary["comparisons_failed"]:
        notes.append(f"{summary['comparisons_failed']} comparisons failed or took too long, and count as unequal.")
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _judge_note(judge: Mapping[str, Any]) -> str:
    return (
        f"{judge['judged']} responses judged, {judge['left_to_rules']} left to the rules; judge and rules agree on "
        f"{judge['agreement']:.1%}; by rule alone {percent(judge['accuracy_by_rule'])}."
    )


def _subset_tables(name: str, entry: Mapping[str, Any], roles: list[str]) -> list[str]:
    lines = []
    for axis, values in entry["models"][roles[0]]["subsets"].items():
        if len(values) == 1:  # says what the main table says
            continue
        rows = [
            [value, str(counted["items"]), *(percent(entry["models"][role]["subsets"][axis][value]) for role in roles)]
            for value, counted in values.items()
        ]
        lines += ["", f"## {name} by {axis.replace('_', ' ')}", "", *_table([axis, "n", *roles], rows)]
    return lines
