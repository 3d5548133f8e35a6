"""What runs leave, and what is read back: tables, replicates, others' numbers."""
