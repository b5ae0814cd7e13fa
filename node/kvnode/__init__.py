"""A member of a kvcluster: storage, consensus and etcd's v3 API."""

from kvnode.compiled import use_compiled

use_compiled()
