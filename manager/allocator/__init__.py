"""Addresses, VNIs and ports: who gets what; pure."""
