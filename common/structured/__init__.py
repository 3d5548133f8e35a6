"""Structured pruning: filters that go as a whole, and a network that really gets smaller."""
