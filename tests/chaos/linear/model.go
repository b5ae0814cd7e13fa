package main

import "github.com/anishathalye/porcupine"

// A group has a few keys that transactions touch together; each is checked on its own, since
// linearizability is local.
const keys = 3

// cell is what one key holds: no value where there is no key, revision 0 where nobody was told it.
type cell struct {
	value    string
	revision int64
}

type state [keys]cell

// operation is one of a transaction's.
type operation struct {
	Kind  string `json:"kind"` // get, put, delete
	Key   int    `json:"key"`
	Value string `json:"value"`
}

// result is what the client was told of an operation: of a get the value and its revision, of a
// delete whether there was something.
type result struct {
	Value    string `json:"value"`
	Revision int64  `json:"revision"`
	Deleted  bool   `json:"deleted"`
}

// call is one request of a client; a put, get or delete alone is a transaction of one operation.
type call struct {
	Group  string `json:"group"`
	Client int    `json:"client"`
	Kind   string `json:"kind"`
	Called int64  `json:"called"`
	// Returned is 0 of a call whose outcome nobody knows.
	Returned int64 `json:"returned"`
	// Compares has the value that each key must hold; an empty one stands for no key.
	Compares  []operation `json:"compares"`
	Then      []operation `json:"then"`
	Otherwise []operation `json:"otherwise"`
	Succeeded bool        `json:"succeeded"`
	Results   []result    `json:"results"`
	// Revision is that of the answer, and the one the call made if it Changed something.
	Revision int64 `json:"revision"`
	Changed  bool  `json:"changed"`
}

func (c *call) isKnown() bool { return c.Returned != 0 }

// step says whether the call may have had its answer in this state, and what the state is then.
func step(before state, c *call) (bool, state) {
	succeeded := true
	for _, compare := range c.Compares {
		succeeded = succeeded && before[compare.Key].value == compare.Value
	}
	if c.isKnown() && succeeded != c.Succeeded {
		return false, before
	}
	operations := c.Then
	if !succeeded {
		operations = c.Otherwise
	}
	if c.isKnown() && c.Changed {
		for _, each := range before {
			if each.revision >= c.Revision {
				return false, before
			}
		}
	}
	after := before
	for i, operation := range operations {
		held := &after[operation.Key]
		switch operation.Kind {
		case "put":
			*held = cell{operation.Value, 0}
			if c.isKnown() {
				held.revision = c.Revision
			}
		case "delete":
			if c.isKnown() && c.Results[i].Deleted != (held.value != "") {
				return false, before
			}
			*held = cell{}
		case "get":
			if !c.isKnown() {
				continue
			}
			told := c.Results[i]
			if told.Value != held.value {
				return false, before
			}
			if held.value != "" && held.revision != 0 && held.revision != told.Revision {
				return false, before
			}
			held.revision = told.Revision
		}
	}
	return true, after
}

var model = porcupine.Model{
	Init: func() interface{} { return state{} },
	Step: func(before, input, output interface{}) (bool, interface{}) {
		return step(before.(state), input.(*call))
	},
	DescribeOperation: func(input, output interface{}) string { return input.(*call).describe() },
}
