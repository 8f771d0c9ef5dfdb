"""The cluster's certificate authority: root, join tokens, node certificates."""
