"""flota.rpc: the one place that knows gRPC plumbing: identities, channels, servers, authorisation, forwarding to the leader."""
