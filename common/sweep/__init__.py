"""Batches: a grid of runs, each notebook executed by papermill in a process of its own.

grid       a YAML file -> the parameters of every run
plan       those, validated and merged -> jobs (`job`); what can be known to be wrong is said here
needs      what a job takes: arithmetic and memory
claims     who does a run: at most one process on any machine that sees the results folder
execute    one job from claim to result, for any `concurrent.futures` executor
worker     what the child process does (with `kernel` and `processes`: nothing outlives the sweep)
run        the loop: submit, watch, report, stop
cluster    runs on a Dask cluster's workers (`dask_workers` examines them; `remote`: what they do)
slots      how many runs at a time, and which GPU each of them sees
estimate   how long runs take, learned from those that are finished
progress   the display;  report: status, failures, collected tables;  doctor: this machine
"""
