"""Carries log lines from the workers that have them to whoever asked."""
