"""OCI images on this node: store, unpack, import and load."""
