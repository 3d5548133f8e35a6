"""A Jupyter kernel that ends with the worker that started it: `python -m common.sweep.kernel`."""

from __future__ import annotations

import os

from common.sweep.processes import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(os.environ["JPY_PARENT_PID"]))

    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()
