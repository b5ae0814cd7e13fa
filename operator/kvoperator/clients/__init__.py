"""The two worlds that the operator talks to: the Kubernetes API and the members."""
