"""How fast, against what: the service side by side with its baselines, by public tools.

__main__.py     `make bench`: interleaved rounds of every contender
scale.py        `make bench-scale`: ten million deliveries against an empty database
replicas.py     `make bench-replicas`: two replicas against one, then no deadlock among them

stage.py        what all three stand on: cores, disk, PostgreSQL, versions
contenders.py   the processes that are measured; `baselines.py` is what some of them serve
load.py         wrk and pgbench; `load.lua` and `one_report.sql` are what these send
measure.py      one contender under one load: figures, and the check that nothing was lost
filling.py      deliveries in bulk, through the statement that records reports
page.py         tables, on the terminal and in `docs/performance.md`
"""
