"""flota.overlay: what joins containers across nodes: VXLAN, bridges, addresses, names."""
