"""Members talking to members: framing, connections, remote calls and snapshot streams.

Everything that peers say travels over TCP or TLS in checksummed frames of our own.  Peer
traffic is private to a cluster, so it owes nothing to gRPC, and a frame costs a few
microseconds where a gRPC message costs a hundred.
"""
