"""The words and rules both tiers share: VMs, levels, sizes, scores and faults."""
