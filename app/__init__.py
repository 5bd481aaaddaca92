"""PaaSoo delivery-report receiver: the status of each SMS, and no report lost.

The flow, in the order a report takes:

    callback/   1. the door: parse a GET from PaaSoo, understand it, and admit it
    ingest/     2. the batch: commit all that waits, then answer each caller; while the database is
                   away, the spool takes the batch (writer, commit, outage, recovery)
    store/      3. the tables, and all SQL: the history of reports and the status of each delivery
    query/      4. the status API: look messages up, wait for them, follow the changes

Beside it:

    api/           what all endpoints share: parameters, cursors, times, access by key, errors
    console/       the pages for people
    quarantine/    list refused callbacks, and replay them under today's rules
    sending/       send messages through PaaSoo, and register those sent elsewhere
    pulling/       ask PaaSoo for reports that never came
    push/          push changes to webhooks: each is a cursor over the feed
    ops/           health, metrics, and periodic work
    commands/      the commands, `serve` among them; `cli.py` declares their options

`reports.py` is the vocabulary that all of them share, `main.py` puts them together.
Beside this package, `simulator/` is a PaaSoo to develop and test against, which imports none of it.
"""
