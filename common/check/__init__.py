"""A method from outside, put through the checks that Frankle et al. 2021 ask for.

well_made   does the score do what it says, on small networks; each fault with its line
kept        which weights it keeps, beside every method of the suite
battery     the runs: its ablations, on the seeds and sparsities of a grid, beside that grid's own
verdict     what the intervals say, in sentences
"""
