"""Every interleaving of a small world's actions, to a given depth, against a scheduler's sans-IO core."""
