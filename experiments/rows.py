"""The rows of the table paper / ours: which runs are one row, and which published figure may stand beside it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev

from experiments.recorded import partial

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
        [*(result[name] for name in same), sorted(result["departures"]), released(result)],
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
    """The published figures on the result's own data, split and protocol; none for another network, other labels, or a part of the images.

    A released checkpoint's figures are those of whoever trained it: the authors', or another code line's own.
    """
    if partial(result) or any(
        name.split(".")[0] in ("model", "semi") or name == "data.labelled"
        for name in result["overrides"]
    ):
        return []
    return [
        each
        for each in result["published"]
        if all(each[name] == result[name] for name in ("data", "split", "protocol"))
    ]


def published_cells(published: Sequence[dict]) -> dict:
    """The first figure is the one we are held against; further ones go with its source."""
    first = published[0] if published else {"miou": None, "source": ""}
    others = [f"also {each['miou']:g} in {each['source']}" for each in published[1:]]
    return {"published": first["miou"], "source": "; ".join([first["source"], *others])}


def name_of(result: dict) -> str:
    """The address with its overrides, as they are written on the command line, and whose checkpoint it is where it is not ours."""
    given = {
        name: value for name, value in sorted(result["overrides"].items()) if name != "released"
    }
    words = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in given.items()
    ]
    layout = released(result)
    return " ".join([result["experiment"], *words, *([f"(released {layout})"] if layout else [])])


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
    rows = list(rows)
    held = {
        (row["experiment"], row["data"], row["split"], row["protocol"])
        for row in rows
        if row["published"] is not None and not row["port"]
    }
    run = {row["experiment"] for row in rows if not row["port"]}
    missing = []
    for paper, row, claims in [
        (paper, row, claims)
        for paper, book in papers.items()
        for row, claims in book["rows"].items()
    ]:
        blank = blank_row(paper, row, papers[paper].get("title", ""), claims.get("parameters"))
        figures = like_with_like(claims.get("published", ()))
        missing += [
            {
                **blank,
                "data": place[0],
                "split": place[1],
                "protocol": place[2],
                **published_cells(figures[place]),
            }
            for place in figures
            if (blank["experiment"], *place) not in held
        ]
        if not figures and blank["experiment"] not in run:
            missing.append(blank)
    return in_order(missing)


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
        "iou": {},
        "parameters": parameters,
        **numbers,
        **lists,
        **published_cells(()),
    }
