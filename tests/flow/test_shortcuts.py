"""Requests that are answered beside the router, compared with the router's answers."""
