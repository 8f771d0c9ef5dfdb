"""The replicated object store: tables in memory, transactions as Raft entries, watches."""
