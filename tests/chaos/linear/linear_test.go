package main

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

func put(called, returned int64, value string, revision int64) *call {
	return &call{
		Kind: "put", Called: called, Returned: returned, Succeeded: true, Revision: revision, Changed: true,
		Then: []operation{{"put", 0, value}}, Results: []result{{}},
	}
}

func get(called, returned int64, value string, revision int64) *call {
	return &call{
		Kind: "get", Called: called, Returned: returned, Succeeded: true, Revision: revision,
		Then: []operation{{"get", 0, ""}}, Results: []result{{Value: value, Revision: revision}},
	}
}

func swap(called, returned int64, expected, value string, succeeded bool, revision int64) *call {
	return &call{
		Kind: "swap", Called: called, Returned: returned, Succeeded: succeeded, Revision: revision, Changed: succeeded,
		Compares: []operation{{"", 0, expected}}, Then: []operation{{"put", 0, value}}, Results: []result{{}},
	}
}

func remove(called, returned int64, deleted bool, revision int64) *call {
	return &call{
		Kind: "delete", Called: called, Returned: returned, Succeeded: true, Revision: revision, Changed: deleted,
		Then: []operation{{"delete", 0, ""}}, Results: []result{{Deleted: deleted}},
	}
}

// both writes two keys at once; look reads them.
func both(called, returned int64, first, second string, revision int64) *call {
	return &call{
		Kind: "txn", Called: called, Returned: returned, Succeeded: true, Revision: revision, Changed: true,
		Then: []operation{{"put", 0, first}, {"put", 1, second}}, Results: []result{{}, {}},
	}
}

func look(called, returned int64, first, second result) *call {
	return &call{
		Kind: "look", Called: called, Returned: returned, Succeeded: true,
		Then: []operation{{"get", 0, ""}, {"get", 1, ""}}, Results: []result{first, second},
	}
}

func TestHistories(t *testing.T) {
	cases := []struct {
		name  string
		right bool
		calls []*call
	}{
		{"a write is read", true, []*call{put(1, 2, "a", 2), get(3, 4, "a", 2)}},
		{"a stale read", false, []*call{put(1, 2, "a", 2), put(3, 4, "b", 3), get(5, 6, "a", 2)}},
		{"a lost write", false, []*call{put(1, 2, "a", 2), get(3, 4, "", 0)}},
		{"a read of what nobody wrote", false, []*call{put(1, 2, "a", 2), get(3, 4, "b", 2)}},
		{"a read during a write sees either", true, []*call{put(1, 9, "a", 2), get(2, 3, "", 0), get(4, 5, "a", 2)}},
		{"what was read is not unread", false, []*call{put(1, 9, "a", 2), get(2, 3, "a", 2), get(4, 5, "", 0)}},
		{"an unknown write happens late", true, []*call{put(1, 0, "a", 0), get(2, 3, "", 0), get(4, 5, "a", 7)}},
		{"an unknown write never happens", true, []*call{put(1, 0, "a", 0), get(2, 3, "", 0), get(4, 5, "", 0)}},
		{"an unknown write happens once", false, []*call{
			put(1, 0, "a", 0), get(2, 3, "a", 2), put(4, 5, "b", 3), get(6, 7, "a", 4),
		}},
		{"a write before it was called", false, []*call{get(1, 2, "a", 2), put(3, 4, "a", 2)}},
		{"a swap wins", true, []*call{put(1, 2, "a", 2), swap(3, 4, "a", "b", true, 3), get(5, 6, "b", 3)}},
		{"two swaps from one value win", false, []*call{
			put(1, 2, "a", 2), swap(3, 8, "a", "b", true, 3), swap(4, 9, "a", "c", true, 4),
		}},
		{"a swap loses without cause", false, []*call{put(1, 2, "a", 2), swap(3, 4, "a", "b", false, 2)}},
		{"a deletion finds the key", true, []*call{put(1, 2, "a", 2), remove(3, 4, true, 3), get(5, 6, "", 0)}},
		{"a deletion misses the key", false, []*call{put(1, 2, "a", 2), remove(3, 4, false, 2)}},
		{"revisions go back", false, []*call{put(1, 2, "a", 5), put(3, 4, "b", 4)}},
		{"another revision is read", false, []*call{put(1, 2, "a", 5), get(3, 4, "a", 6)}},
		{"a transaction is seen whole", true, []*call{
			both(1, 2, "a", "b", 2), look(3, 4, result{Value: "a", Revision: 2}, result{Value: "b", Revision: 2}),
		}},
		{"half of a transaction is seen", false, []*call{
			both(1, 9, "a", "b", 2), look(3, 4, result{Value: "a", Revision: 2}, result{}),
		}},
	}
	for _, each := range cases {
		t.Run(each.name, func(t *testing.T) {
			for i, c := range each.calls {
				c.Client = i
			}
			result, _ := check(each.calls, time.Minute)
			if (result == porcupine.Ok) != each.right {
				t.Errorf("result: %s", result)
			}
		})
	}
}
