"""Lottery tickets: train, prune the smallest weights, rewind, train what is left, and again.

Frankle and Carbin 2019 (1803.03635), Frankle et al. 2020 (1912.05671), Renda et al. 2020
(2003.02389). `common.tickets.ticket` carries one out.
"""
