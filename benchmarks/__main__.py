"""Measures the reference beside opengris-scaler 2.9.0, dask.distributed, ProcessPoolExecutor and bare pyzmq.

Rounds of all candidates alternate (A B C A B C ...), after one that does not count. Reported are the medians with
worst and best round; the ratio is the median of the ratios of neighbouring rounds. Linux only.
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.candidates import THIS_PYTHON, Candidate, CandidateFailed, candidates
from benchmarks.rows import FULL, MEASUREMENTS, NORMAL, QUICK, ROWS, Clusters, Measurement, Sizes, one_round

_ROOT = Path(__file__).parents[1]
_README = _ROOT / "README.md"
_PIPE_WIDTH = 160


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser("python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    add = result.add_argument
    add("--rounds", type=int, metavar="N", help="rounds that count, of each row (default 3; 1 with --quick)")
    add("--only", action="append", metavar="ROW", choices=sorted(ROWS), help="only this row; again for more")
    add("--candidates", metavar="A,B", help="only these, of ours, peer, dask, pool, bare")
    add("--quick", action="store_true", help="a little of everything: that it works, not how fast it is")
    add("--full", action="store_true", help="10,000 tasks that share an argument, and more of each: takes long")
    add("--jsonl", type=Path, metavar="FILE", help="write what was measured, a line for each row")
    add("--svg", type=Path, metavar="FILE", help="write a chart")
    add("--readme", action="store_true", help="write the table into README.md, between its marks")
    add("--peer-python", default=THIS_PYTHON, metavar="PYTHON", help="the one that has opengris-scaler[zmq]==2.9.0")
    add("--dask-python", default=THIS_PYTHON, metavar="PYTHON", help="the one that has dask.distributed")
    return result


def measure(
    measurement: Measurement,
    present: list[Candidate],
    sizes: Sizes,
    rounds: int,
    clusters: Clusters,
    all_figures: dict[str, report.Figures],
) -> None:
    """All rounds of a measurement, into the figures of its rows. Who fails once is left out of the rest of it."""
    wanted = [key for key in measurement.rows if key in all_figures]
    taking_part = [candidate for candidate in present if candidate.key in measurement.candidates]
    for number in range(-1, rounds):
        if number < 0 and measurement.alone is not None:
            continue  # everything is started anew: nothing gets warm
        for candidate in list(taking_part):
            try:
                values = one_round(measurement, candidate, sizes, clusters)
            except CandidateFailed as error:
                taking_part.remove(candidate)
                for key in wanted:
                    all_figures[key].failures[candidate.key] = str(error)
                continue
            if number >= 0:
                for key in wanted:
                    if key in values:
                        all_figures[key].rounds.setdefault(candidate.key, []).append(values[key])


def _chosen(options: argparse.Namespace) -> list[str]:
    """The options that change what is measured, as they were given."""
    words = [word for row in options.only or () for word in ("--only", row)]
    words += ["--candidates", options.candidates] if options.candidates else []
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    return words + [f"--{name}" for name in ("quick", "full") if getattr(options, name)]


def _compile() -> None:
    """What is measured has its bytecode, as pip makes it for the others when it installs them."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for package in ("protocol", "reference_impl", "benchmarks"):
        compileall.compile_dir(_ROOT / package, quiet=1)


def _notes(sizes: Sizes) -> dict[str, list[str]]:
    queued = f"{sizes.queued:,} tasks are queued; in opengris-scaler once, since it takes long to accept them."
    return {
        "map": [f"The map has {sizes.map:,} tasks."],
        "cancel-running": ["* dask.distributed cancels the future only: the task runs on, and its slot is not free."],
        "cancel-queued": [queued, "bare pyzmq sends a cancel back at once: the limit of any answer."],
        "memory": [queued],
        "accept": [queued],
        "shared": [f"{sizes.shared:,} tasks share the argument, sent once with what the candidate has for that."],
        "scheduler": ["bare pyzmq: a ROUTER that decodes each message once, with pycapnp, and passes it on."],
    }


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.rounds is not None and options.rounds < 1:
        parser().error("--rounds: at least 1")
    if options.readme and (options.only or options.candidates or options.quick):
        parser().error("--readme: the table there has every row of every candidate, in full size")
    for path in (options.jsonl, options.svg):
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            parser().error(f"{path} can't be written")
    sizes = QUICK if options.quick else FULL if options.full else NORMAL
    rounds = options.rounds or (1 if options.quick else 3)
    _compile()
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    progress = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as logs:
        everyone = candidates(THIS_PYTHON, options.peer_python, options.dask_python, Path(logs))
        if options.candidates:
            keys = options.candidates.split(",")
            unknown = set(keys) - {candidate.key for candidate in everyone}
            if unknown:
                parser().error(f"--candidates: {', '.join(sorted(unknown))}: there are ours, peer, dask, pool, bare")
            everyone = [candidate for candidate in everyone if candidate.key in keys]
        versions = {candidate.key: candidate.version for candidate in everyone}
        environment = report.Environment(
            machine=f"{platform.system()} {platform.machine()}",
            cores=len(os.sched_getaffinity(0)),
            python=f"{platform.python_version()}, pyzmq {importlib.metadata.version('pyzmq')}",
            command="make bench" + (f" ARGS={shlex.quote(' '.join(less))}" if (less := _chosen(options)) else ""),
            date=datetime.date.today().isoformat(),
            titles={candidate.key: (candidate.title, versions[candidate.key]) for candidate in everyone},
            load_before=os.getloadavg()[0],
        )
        console.print("\n".join(environment.lines()))
        present = [candidate for candidate in everyone if versions[candidate.key]]
        notes = _notes(sizes)
        figures = {
            key: report.Figures(row, notes=notes.get(key, []))
            for key, row in ROWS.items()
            if not options.only or key in options.only
        }
        began = time.monotonic()
        with Clusters() as clusters, progress.status("") as status:
            for alone in (False, True):
                for measurement in MEASUREMENTS:
                    wanted = [ROWS[key].title for key in measurement.rows if key in figures]
                    if wanted and (measurement.alone is not None) is alone:
                        status.update(f"{wanted[0]} …")
                        measure(measurement, present, sizes, rounds, clusters, figures)
                        if alone:
                            clusters.stop()
                clusters.stop()  # what follows is measured without them
        environment.seconds = time.monotonic() - began
        environment.load_after = os.getloadavg()[0]
    done = list(figures.values())
    console.print(report.table(done, environment))
    for remark in report.remarks(done, environment):
        console.print(f"- {remark}")
    console.print(environment.after())
    if options.jsonl:
        options.jsonl.write_text(report.jsonl(done, environment), "utf-8")
    if options.svg:
        options.svg.write_text(report.svg(done, environment), "utf-8")
    if options.readme:
        chart = os.path.relpath(options.svg, _README.parent) if options.svg else ""
        report.update_readme(_README, report.markdown(done, environment, chart))
    return 1 if any(figure.failures for figure in done) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
