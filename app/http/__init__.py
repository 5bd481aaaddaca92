"""The front: what stands between the socket and the application."""
