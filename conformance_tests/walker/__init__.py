"""Seeded random walks against a running scheduler, judged by the explorer's rules."""
