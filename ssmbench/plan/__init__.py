"""What is to be computed: cells, their identity, what is done, what it costs, in which order."""
