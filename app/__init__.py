"""PaaSoo delivery-report receiver: what became of each SMS, and no report lost.

The flow, in the order a report takes:

    callback/   1. the door: a GET from PaaSoo is parsed, understood, and admitted
    ingest/     2. the batch: what waits is committed at once, then each caller is answered;
                   while the database is away, the spool takes it (writer, commit, outage, recovery)
    store/      3. the tables, and all SQL: the history of reports and the status of each delivery
    query/      4. the status API: internal systems look messages up, wait, follow the changes

Beside it:

    quarantine/    what the door refused: listed, and read again under today's rules
    sending/       what was sent: registered by others, or sent by us through PaaSoo
    ops/           health, metrics, and what is done every so often
    commands/      the commands, `serve` among them; `cli.py` declares their options

`reports.py` is the vocabulary that all of them share, `main.py` puts them together.
Beside this package, `simulator/` is a PaaSoo to develop and test against, which imports none of it.
"""
