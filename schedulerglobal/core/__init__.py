"""Pure decisions about a cluster: no clock, no network, no store."""
