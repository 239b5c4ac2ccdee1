"""Planning on pools of unequal GPUs, links or health: the request, its space, its price, the answer."""
