"""Webhooks: each address is a cursor over the change feed, and the service does the asking."""
