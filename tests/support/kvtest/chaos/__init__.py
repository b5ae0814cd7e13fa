"""Members in network namespaces under faults and load, and what must hold of what their clients saw."""
