"""A PaaSoo to develop and test against: a send API, and reports of every kind.

Also a system that the service pushes its changes to.

It imports nothing of the service, nor the service anything of it. It states PaaSoo's rules a second
time, from PaaSoo's documents alone, and so the status that the service must show: a mistake must be
made twice to go unnoticed.

    demo.py        `make demo`: the service and the simulator together, from outside
    command.py     `paasoo-dlr simulate`; its options are in arguments.py
    options.py     the parts of a run, and the parsers of their values
    simulation.py  the run, from the first message to the last report
    behaviours.py  the table of PaaSoo's behaviours and their shares
    traffic.py     draws messages and their reports, from a seed and the shares
    exchange.py    takes messages, starts their reports, and answers questions about them
    send_api.py    `GET /json`, `/dlr` and `/balance`, as the guide and the public pages have them
    inquiries.py   what is answered to a question about a message
    accounts.py    the rules of an account, of either kind
    forms.py       odd forms of an answer
    reporter.py    sends the reports to the callback address, at a rate
    ledger.py      writes down each message, report and answer
    oracle.py      the status that the service must show
    check.py       compares the ledger with the service, which api.py asks

    receiving.py   the other kind of run: a system that changes are pushed to
    receiver.py    takes the pushes, and answers them
    signatures.py  the signature of a push
    pushes.py      what was pushed, and what of it is wrong

    serving.py     a server beside a run
    progress.py    the live line
"""
