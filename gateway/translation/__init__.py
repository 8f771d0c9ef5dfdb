"""Docker's API as JSON ↔ flota's messages: plain functions, no I/O. Also what `flota … inspect` prints."""
