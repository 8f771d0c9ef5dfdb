"""`flota doctor`: looks at this machine and its node, and says what is wrong and what to do about it."""
