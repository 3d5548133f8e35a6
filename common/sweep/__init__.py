"""Batches: a grid of runs, each notebook executed by papermill in a process of its own.

grid       a YAML file -> the parameters of every run
plan       those, validated and merged -> jobs; what can be known to be wrong is said here
needs      what a job takes: arithmetic and memory
claims     who does a run: at most one process on any machine that sees the results folder
execute    one job from claim to result, for any `concurrent.futures` executor
worker     what the child process does (with `kernel` and `processes`: nothing outlives the sweep)
pool       where runs are carried out: here, or on a Dask cluster's workers (`dask/`)
loop       submit, watch, report, stop;  batch: a whole one, as the command line has it
earlier    runs that an attached folder has done already
slots      how many runs at a time, and which GPU each of them sees
estimate   how long runs take, learned from those that are finished
progress   the display;  report: status, failures, collected tables
"""
