"""`python -m fuzz`, in tests/: run many cases of each format and print a table in Markdown."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from .formats import FORMATS
from .running import Tally, run_cases


@click.command()
@click.option("--format", "names", multiple=True, type=click.Choice(list(FORMATS)), help="Which; all of them without.")
@click.option("--cases", default=10_000, show_default=True, help="How many cases of each format.")
@click.option(
    "--first", default=0, show_default=True, help="The number of the first case; each number is a case of its own."
)
@click.option("--seconds", default=1e9, help="Stop each format after so long.")
@click.option("--jobs", default=2, show_default=True, help="How many formats at once.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("fuzzed"), show_default=True, help="Where failed cases go."
)
def main(names: tuple[str, ...], cases: int, first: int, seconds: float, jobs: int, out: Path) -> None:
    """Damage valid files in many ways and run opdiff on them.

    \b
    Example:
      python -m fuzz --format gguf --cases 1000 --seconds 60
    """
    click.echo(
        "| format | cases | seconds | results | refused | kinds of lines | failures |\n|---|---|---|---|---|---|---|"
    )

    def one(name: str) -> tuple[str, Tally]:
        return name, run_cases(name, first, cases, (out / name).resolve(), seconds)

    failed = False
    with ThreadPoolExecutor(jobs) as pool:
        for name, tally in pool.map(one, names or FORMATS):
            right = tally.statuses["0"] + tally.statuses["1"]
            row = (
                name,
                tally.n_cases,
                f"{tally.seconds:.0f}",
                right,
                tally.statuses["2"],
                len(tally.lines),
                len(tally.failures),
            )
            click.echo("| " + " | ".join(map(str, row)) + " |")
            for number, wrong, words in tally.failures:
                click.echo(f"{name} {number}: {wrong}\n    {words}", err=True)
            failed |= bool(tally.failures)
            (out / name / "lines.txt").write_text("".join(f"{n} {line}\n" for line, n in tally.lines.most_common()))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
