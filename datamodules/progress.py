"""The progress bar of everything that takes long, for the person at a terminal."""

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")


def with_progress(
    items: Iterable[Item], title: str, total: int | None = None, done: int = 0
) -> Iterator[Item]:
    """The items, under a bar that goes away at the end; in a log there is none.

    `total` is by default the number of items, where they have one; `done` of them were handled
    before.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(stderr=True)
    if total in (0, 1) or not console.is_terminal:
        yield from items
        return
    with Progress(console=console, transient=True) as bar:
        # rich's own `track` would end at the number of items, without `done`
        task = bar.add_task(escape(title), total=total, completed=done)
        for each in items:
            yield each
            bar.advance(task)
