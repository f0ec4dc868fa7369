"""How far a long walk has come, for the person at a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def shown(
    items: Iterable[Item], doing: str, total: int | None = None, done: int = 0
) -> Iterator[Item]:
    """The items, under a bar that goes away at the end; a log gets none. Of `total`, by default their number, `done` lie behind already."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    count, console = len(items) if total is None else total, Console(stderr=True)
    if count < 2 or not console.is_terminal:
        yield from items
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(
            escape(doing), total=count, completed=done
        )  # rich's own `track` would end at what was walked, without `done`
        for each in items:
            yield each
            bar.advance(task)
