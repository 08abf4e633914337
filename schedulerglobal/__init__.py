"""The global scheduler: puts each VM on the host where it does the most good."""
