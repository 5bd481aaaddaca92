"""What was sent: registered by whoever sent it, or sent by us through PaaSoo."""
