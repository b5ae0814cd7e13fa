"""What clients connect to: gRPC and the HTTP/1.1 side, as carriers of ``kvnode.api``."""
