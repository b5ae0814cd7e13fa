// Linear says whether what clients saw is linearizable: it reads their calls, one a line in JSON,
// and writes a verdict for each group of keys that is not. Its first argument is the folder for
// pictures, its second the seconds for the search of one group.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

type verdict struct {
	Group  string `json:"group"`
	Result string `json:"result"`
	Calls  int    `json:"calls"`
	// Picture shows the longest order that explains a part of the calls.
	Picture string `json:"picture,omitempty"`
}

func (c *call) describe() string {
	text := c.Kind
	for _, compare := range c.Compares {
		text += fmt.Sprintf(" if %d=%q", compare.Key, compare.Value)
	}
	for _, operation := range c.Then {
		text += fmt.Sprintf(" %s %d %s", operation.Kind, operation.Key, operation.Value)
	}
	if !c.isKnown() {
		return text + " -> unknown"
	}
	return fmt.Sprintf("%s -> %v %v @%d", text, c.Succeeded, c.Results, c.Revision)
}

// check searches for an order of a group's calls that explains all answers.
func check(calls []*call, limit time.Duration) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	end := int64(math.MaxInt64 - 1)
	operations := make([]porcupine.Operation, 0, len(calls))
	for _, c := range calls {
		returned := c.Returned
		if !c.isKnown() {
			// It may happen at any later time, and at the very end makes no difference.
			returned = end
		}
		operations = append(operations, porcupine.Operation{
			ClientId: c.Client, Input: c, Call: c.Called, Output: nil, Return: returned,
		})
	}
	return porcupine.CheckOperationsVerbose(model, operations, limit)
}

func read(input *bufio.Reader) (map[string][]*call, error) {
	groups := map[string][]*call{}
	decoder := json.NewDecoder(input)
	for decoder.More() {
		c := &call{}
		if err := decoder.Decode(c); err != nil {
			return nil, err
		}
		groups[c.Group] = append(groups[c.Group], c)
	}
	return groups, nil
}

func run() error {
	directory := os.Args[1]
	seconds, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		return err
	}
	groups, err := read(bufio.NewReader(os.Stdin))
	if err != nil {
		return err
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	sort.Strings(names)
	work := make(chan string)
	verdicts := make(chan verdict)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for name := range work {
				verdicts <- judge(name, groups[name], directory, time.Duration(seconds*float64(time.Second)))
			}
		}()
	}
	go func() {
		for _, name := range names {
			work <- name
		}
		close(work)
		workers.Wait()
		close(verdicts)
	}()
	encoder := json.NewEncoder(os.Stdout)
	for each := range verdicts {
		if err := encoder.Encode(each); err != nil {
			return err
		}
	}
	return nil
}

func judge(name string, calls []*call, directory string, limit time.Duration) verdict {
	result, info := check(calls, limit)
	found := verdict{Group: name, Result: string(result), Calls: len(calls)}
	if result != porcupine.Ok {
		path := filepath.Join(directory, strings.ReplaceAll(name, "/", "-")+".html")
		if err := porcupine.VisualizePath(model, info, path); err == nil {
			found.Picture = path
		}
	}
	return found
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: linear FOLDER SECONDS < calls")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
