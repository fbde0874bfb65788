"""What runs on a GPU that is at hand for half an hour: the plan for each card, what it costs, and what to carry."""
