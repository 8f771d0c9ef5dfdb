"""What should run: pure decisions per service mode, restarts, updates, reaping, and the loops around them."""
