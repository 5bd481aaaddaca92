"""Commands that look after what is stored: one module for each."""
