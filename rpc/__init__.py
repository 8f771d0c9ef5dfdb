"""flota.rpc: the one place that knows gRPC: identities, channels, servers, authorisation, forwarding to the leader."""
