"""What every notebook of the suite imports.

Imports run one way: notebooks and the command line -> run, experiment, sweep -> training, results,
plots -> pruning, datasets, models. Importing this package starts no CUDA context and reads no file.
"""
