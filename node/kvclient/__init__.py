"""Client library and the kvctl command line for kvcluster and etcd."""
