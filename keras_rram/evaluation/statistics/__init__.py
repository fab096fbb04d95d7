"""Statistics of populations: pure functions of arrays."""
