"""The Kubernetes operator that runs kvclusters."""
