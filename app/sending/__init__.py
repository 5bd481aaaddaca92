"""Send messages through PaaSoo, and register those that were sent elsewhere."""
