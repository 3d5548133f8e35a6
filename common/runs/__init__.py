"""One run from its parameters to its tables."""
