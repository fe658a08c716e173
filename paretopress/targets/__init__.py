"""Where latency is measured: the measuring protocol, this host as a target, its environment and its capabilities."""
