"""What the door refused, for an operator to look through."""
