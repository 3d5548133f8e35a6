"""shapes.csv and cost.csv, which are collected: what their columns are."""

from __future__ import annotations

from common.runs.options import Table
from common.structured.cost import BATCHES

SHAPES = ("layer", "channels", "shape_before", "shape", "filters", "filters_kept", "vanished")
SIZES = ("parameters", "parameters_nonzero", "flops", "flops_nonzero", "file_bytes")
LATENCIES = tuple(f"latency_ms_{batch}" for batch in BATCHES)
COST = ("device", "network", "accuracy", "accuracy_fine_tuned", *SIZES, "file_bytes_gzip")
COST += LATENCIES
DENSE, SMALL, MASKED = "trained, whole", "filters removed", "unstructured mask"  # networks

# sparse.csv and filters.csv stay with the runs: all that share a training have the same ones.
TABLES = (
    Table(
        "shapes",
        SHAPES,
        text=("method", "run_id", "layer", "channels", "shape_before", "shape"),
    ),
    Table("cost", COST, text=("method", "run_id", "device", "network")),
)
