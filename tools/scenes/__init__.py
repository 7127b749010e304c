"""What the demo, the benchmarks and the integration tests play: a busy guest in the lab."""
