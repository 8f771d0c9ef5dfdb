"""Task controllers: one task's life from ACCEPTED to its end, and what is remembered of it across restarts."""
