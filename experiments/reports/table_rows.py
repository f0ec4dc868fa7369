"""The rows of the table paper / ours: which runs are one row, and which published figure may stand beside it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev

from experiments.command_line.catalogue import catalogue
from experiments.records.results import partial

WITHOUT_INFLUENCE = ("resident", "unlabelled")  # of the data set's options; see also PLACES

# --- rows that were measured


def table(results: Iterable[dict]) -> list[dict]:
    """One row for runs that differ in the seed alone, in percent; unfinished and smoke runs are left to `apart`."""
    groups: dict[str, list[dict]] = {}
    for result in results:
        if standing(result) == "measured":
            groups.setdefault(likeness(result), []).append(result)
    return in_order(as_row(group) for group in groups.values())


def apart(results: Iterable[dict]) -> list[dict]:
    """One row for each run that may not be averaged, with the mIoU it had reached."""
    return in_order(as_row([result]) for result in results if standing(result) != "measured")


def standing(result: dict) -> str:
    if result.get("smoke") or any(
        departure.endswith("(--smoke)") for departure in result["departures"]
    ):
        return "smoke"
    if not result["finished"]:
        return "unfinished"
    return "measured" if result["miou"] is not None else "without mIoU"


def likeness(result: dict) -> str:
    """What runs must share before their figures may be averaged."""
    same = ("experiment", "overrides", "data", "split", "protocol", "iterations")
    return json.dumps(
        [
            *(result[name] for name in same),
            evaluated_with(result),
            sorted(result["departures"]),
            released(result),
        ],
        sort_keys=True,
    )


def as_row(runs: Sequence[dict]) -> dict:
    """Runs alike as one row; what they may differ in beside the seed is told by the newest, or listed."""
    newest = max(runs, key=lambda run: run["date"])
    ours = over_seeds(runs, lambda run: run["miou"])
    published = comparable(newest)
    same = ("experiment", "paper", "row", "title", "overrides", "data", "split", "protocol")
    return {
        "status": standing(newest),
        "name": name_of(newest),
        **{name: newest[name] for name in same},
        "model": evaluated_with(newest),
        "iterations": None
        if released(newest)
        else newest["iterations"],  # nobody says how long the authors trained
        "released": released(newest),
        "port": bool(newest.get("port")),
        **published_cells(published),
        "ours": mean(ours),
        "spread": stdev(ours) if len(ours) > 1 else None,
        "interval": interval_of(runs),
        "seeds": sorted({run["seed"] for run in runs}),
        "difference": mean(ours) - published[0]["miou"] if ours and published else None,
        "pixel_accuracy": mean(over_seeds(runs, lambda run: run["pixel_accuracy"])),
        "iou": {
            name: mean(over_seeds(runs, lambda run, name=name: run["iou"].get(name)))
            for name in newest["iou"]
        },
        **{
            name: newest[name]
            for name in ("parameters", "inference_parameters", "images", "departures")
        },
        **{
            name: sorted({str(run[name]) for run in runs})
            for name in ("hardware", "precision", "date")
        },
        "commit": sorted({run["commit"] or "none" for run in runs}),
        "runs": [run.get("file", "") for run in runs],
    }


def interval_of(runs: Sequence[dict]) -> list[float]:
    """Of a single score, in percent; the same weights may have been judged twice, by their run and by evaluate.py."""
    known = [run["interval"] for run in runs if run.get("interval")]
    return (
        [100 * end for end in known[0]]
        if known and len({(run["seed"], run["miou"]) for run in runs}) == 1
        else []
    )


def over_seeds(runs: Sequence[dict], value: Callable[[dict], float | None]) -> list[float]:
    """One figure in percent for each seed: a seed that was run twice must not weigh twice."""
    seeds: dict[int, list[float]] = {}
    for run in runs:
        if value(run) is not None:
            seeds.setdefault(run["seed"], []).append(100 * value(run))
    return [fmean(figures) for _, figures in sorted(seeds.items())]


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def comparable(result: dict) -> list[dict]:
    """The published figures that agree with the result.

    There are none for another network, another way of training, or a part of the images.
    A released checkpoint's figures are those of whoever trained it: the authors', or another code line's own.
    """
    if partial(result) or trained_otherwise(result):
        return []
    return [each for each in result["published"] if agree(each, result)]


def trained_otherwise(result: dict) -> bool:
    """Whether the run trained another network than the row's, or by a semi-supervised method."""
    given = {f"model.{name}" for name in evaluated_with(result)}
    changed = [name.partition(".")[0] for name in result["overrides"] if name not in given]
    departed = any(departure.startswith("model.") for departure in result["departures"])
    return departed or "model" in changed or "semi" in changed


def agree(figure: dict, result: dict) -> bool:
    """Whether a published figure was measured as the result was.

    They share data, split, protocol, options of the network and options of the data.
    """
    same = all(figure[name] == result[name] for name in ("data", "split", "protocol"))
    options = figure.get("model", {}), figure.get("options", {})
    return same and options == (evaluated_with(result), evaluated_on(result))


def evaluated_with(result: dict) -> dict:
    """Options that the network was evaluated with and not trained with; older results have none."""
    return result.get("model") or {}


def evaluated_on(result: dict) -> dict:
    """The options of the data set that a score depends on, where they are not its defaults."""
    given = {
        name.removeprefix("data."): value
        for name, value in result["overrides"].items()
        if name.startswith("data.")
    }
    if not given:
        return {}
    known = catalogue()["data"].get(result["data"], {}).get("options", {})
    defaults = {name: each["default"] for name, each in known.items()}
    return {
        name: value
        for name, value in given.items()
        if name not in WITHOUT_INFLUENCE and value != defaults.get(name)
    }


def overrides_of(figure: dict) -> dict:
    """The options of a published figure as the command line calls them."""
    groups = {"model": figure.get("model", {}), "data": figure.get("options", {})}
    return {
        f"{group}.{name}": value
        for group, values in groups.items()
        for name, value in values.items()
    }


def evaluation_options(result: dict) -> dict:
    """The options that a published figure must share, as the command line calls them."""
    return overrides_of({"model": evaluated_with(result), "options": evaluated_on(result)})


def words_of(overrides: Mapping[str, object]) -> list[str]:
    """As they are written on the command line."""
    return [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in sorted(overrides.items())
    ]


def model_words(result: dict) -> str:
    """The options that it was evaluated with, in words; empty where it was trained with them."""
    return ", ".join(words_of(overrides_of({"model": evaluated_with(result)})))


def measured_as(measured: dict, overrides: Mapping[str, object]) -> str:
    """The protocol with its options, in words: "whole, model.output_stride=8"."""
    return ", ".join([measured["protocol"], *words_of(overrides)])


def published_cells(published: Sequence[dict]) -> dict:
    """The first figure is the one we are held against; further ones go with its source."""
    first = published[0] if published else {"miou": None, "source": ""}
    others = [f"also {each['miou']:g} in {each['source']}" for each in published[1:]]
    return {"published": first["miou"], "source": "; ".join([first["source"], *others])}


def name_of(result: dict) -> str:
    """The address with its overrides, as they are written on the command line, and whose checkpoint it is where it is not ours."""
    given = {name: value for name, value in result["overrides"].items() if name != "released"}
    layout = released(result)
    whose = [f"(released {layout})"] if layout else []
    return " ".join([result["experiment"], *words_of(given), *whose])


def released(result: dict) -> str | None:
    """The layout of a checkpoint that somebody else trained; None for our own training."""
    return result.get("released") or result["overrides"].get("released")


def in_order(rows: Iterable[dict]) -> list[dict]:
    return sorted(rows, key=place_in_order)


def place_in_order(row: dict) -> list:
    """A released checkpoint comes right after what we trained of the same network and protocol."""
    name = row["name"].removesuffix(f" (released {row['released']})")
    return [
        row["paper"],
        name,
        *(row[part] for part in ("data", "split", "protocol")),
        row["released"] or "",
        row["seeds"],
    ]


def like_with_like(rows: Iterable[dict]) -> dict[tuple[str, str, str], list[dict]]:
    """The rows by (data, split, protocol): only within one of these may figures be compared."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["split"], row["protocol"]), []).append(row)
    return groups


# --- rows that nobody has measured


def not_measured(papers: Mapping[str, dict], rows: Iterable[dict]) -> list[dict]:
    """A row for each published figure that none of `rows` is set beside, and for each experiment with neither figure nor run."""
    own = [row for row in rows if not row["port"]]
    held = [row for row in own if row["published"] is not None]
    run = {row["experiment"] for row in own}
    missing = []
    for paper, row, claims in [
        (paper, row, claims)
        for paper, book in papers.items()
        for row, claims in book["rows"].items()
    ]:
        blank = blank_row(paper, row, papers[paper].get("title", ""), claims.get("parameters"))
        ours = [each for each in held if each["experiment"] == blank["experiment"]]
        figures = alike(claims.get("published", ()))
        missing += [
            claimed(blank, same)
            for same in figures
            if not any(agree(same[0], each) for each in ours)
        ]
        if not figures and blank["experiment"] not in run:
            missing.append(blank)
    return in_order(missing)


def alike(figures: Iterable[dict]) -> list[list[dict]]:
    """Published figures that differ in value and source alone, together."""
    groups: dict[str, list[dict]] = {}
    for figure in figures:
        place = [figure[name] for name in ("data", "split", "protocol")]
        key = json.dumps([*place, overrides_of(figure)], sort_keys=True)
        groups.setdefault(key, []).append(figure)
    return list(groups.values())


def claimed(blank: dict, figures: Sequence[dict]) -> dict:
    """The row of figures that nobody has measured yet."""
    first = figures[0]
    overrides = overrides_of(first)
    return {
        **blank,
        **{name: first[name] for name in ("data", "split", "protocol")},
        "name": name_of({"experiment": blank["experiment"], "overrides": overrides}),
        "overrides": overrides,
        "model": first.get("model", {}),
        **published_cells(figures),
    }


def blank_row(paper: str, row: str, title: str, parameters: int | None) -> dict:
    """A row of the table before anything is known of it."""
    experiment = f"{paper}/{row}"
    named = {
        "status": "not measured",
        "name": experiment,
        "experiment": experiment,
        "paper": paper,
        "row": row,
        "title": title,
    }
    numbers = dict.fromkeys(
        (
            "iterations",
            "ours",
            "spread",
            "difference",
            "pixel_accuracy",
            "inference_parameters",
            "images",
            "released",
        )
    )
    lists = {
        name: []
        for name in (
            "interval",
            "seeds",
            "departures",
            "hardware",
            "precision",
            "date",
            "commit",
            "runs",
        )
    }
    place = {"data": "", "split": "", "protocol": ""}
    return {
        **named,
        **place,
        "port": False,
        "overrides": {},
        "model": {},
        "iou": {},
        "parameters": parameters,
        **numbers,
        **lists,
        **published_cells(()),
    }
