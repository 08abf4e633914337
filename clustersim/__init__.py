"""How many hosts does it take? The services' own decisions over workloads of days, in seconds."""
