"""A member of a kvcluster: storage, consensus and etcd's v3 API."""
