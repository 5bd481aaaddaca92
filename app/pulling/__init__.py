"""Ask PaaSoo for the reports of a message that never came."""
