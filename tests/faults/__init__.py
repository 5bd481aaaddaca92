"""Real faults: kills, outages, locks, full disks; and a ledger to check that nothing is lost.

`make faults` runs the long campaign; the tests here run a short one.
"""
