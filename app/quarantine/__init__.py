"""The refused callbacks, for an operator to look through."""
