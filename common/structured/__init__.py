"""Structured pruning: filters that go as a whole, and a network that really gets smaller.

Wen et al. 2016 (1608.03665), Li et al. 2017 (1608.08710). `filter_run` carries one out.
"""
