"""A PaaSoo to develop and test against: a send API, and reports of every kind.

It imports nothing of the service, nor the service anything of it. It states PaaSoo's rules, and
what the service must make of them, a second time and from the documents alone: a mistake would
have to be made twice to go unnoticed.

    demo.py        `make demo`: the service and the simulator together, from outside
    command.py     `paasoo-dlr simulate`: the options
    simulation.py  the run, from the first message to the last report
    behaviours.py  what PaaSoo may do about a delivery: the table of shares
    traffic.py     from a seed and the shares to messages and their reports
    send_api.py    `GET /json`, as the guide has it
    reporter.py    the reports, sent to the callback address at a rate
    ledger.py      what was sent and how it was answered, a line each
    oracle.py      what the service must show, from the ledger alone
    check.py       the ledger against the service's API
    progress.py    the live line
"""
