"""A whole cluster on one machine: each node a network and mount namespace with a daemon of its own."""
