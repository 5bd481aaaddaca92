"""Benchmarks of the service beside its baselines, with public tools.

__main__.py     `make bench`: interleaved rounds of every contender
scale.py        `make bench-scale`: ten million deliveries against an empty database
replicas.py     `make bench-replicas`: two replicas against one
pages.py        `make bench-pages`: the console's pages, and callbacks while people click

stage.py        the environment of all: cores, disk, PostgreSQL, versions
contenders.py   the measured processes; some of them serve `baselines.py`
load.py         the load: wrk runs `load.lua`, pgbench `one_report.sql`
measure.py      one contender under one load: figures, and the check that nothing was lost
filling.py      deliveries in bulk, through the statement that records reports
page.py         tables, on the terminal and in `docs/performance.md`
"""
