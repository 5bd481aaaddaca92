"""PaaSoo delivery-report receiver: what became of each SMS, and no report lost.

The flow, in the order a report takes:

    callback/   1. the door: a GET from PaaSoo is parsed, understood, and admitted
    ingest/     2. the batch: what waits is committed at once, then each caller is answered;
                   while the database is away, the spool takes it (writer, intake, recovery)
    store/      3. the tables, and all SQL: the history of reports and the status of each delivery
    query/      4. the status API: internal systems look messages up

`reports.py` is the vocabulary that all of them share, `main.py` puts them together.
"""
