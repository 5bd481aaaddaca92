"""Faults, for real: kills, outages, locks, full disks; and a ledger that nothing may be lost from.

`make faults` runs the long campaign; the tests here run a short one.
"""
