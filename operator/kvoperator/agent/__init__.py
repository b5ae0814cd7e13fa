"""The snapshot agent: runs in Jobs and init containers, knows no Kubernetes API."""
