"""meshwright: plans how large models are trained and served."""

