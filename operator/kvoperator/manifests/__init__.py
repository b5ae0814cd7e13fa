"""Pure builders: from a spec to the Kubernetes objects that a cluster owns."""
