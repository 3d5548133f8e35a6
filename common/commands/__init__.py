"""What `python -m trials` does beside batches."""
