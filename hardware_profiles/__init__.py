"""Hardware as data: GPUs, links and clusters, each figure with its source, and the loader of both."""
