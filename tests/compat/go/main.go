// Program compat drives a cluster of three members through etcd's own Go client.
//
// It knows nothing of how the members are run.  The first line of its input names them; its
// arguments name the checks to run, in order (none: all of them; "list" prints their names).
// For each check it prints "PASS name" or "FAIL name: why".  What only the one who runs the
// members can do it asks for by a line "ASK {...}" and is answered by a line of input.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const checkTimeout = 60 * time.Second

// A check is one named claim about the members.
type check struct {
	name string
	run  func(t *T)
}

// cluster is how to reach one; the files are empty where it asks for no TLS.
type cluster struct {
	Endpoints []string `json:"endpoints"`
	CAFile    string   `json:"ca_file"`
	CertFile  string   `json:"cert_file"`
	KeyFile   string   `json:"key_file"`
}

// T is what a running check has: a client, a deadline and a way to fail.
type T struct {
	name    string
	ctx     context.Context
	cluster cluster
	// cli is shared by all checks.
	cli      *clientv3.Client
	cleanups []func()
}

type failure string

var input = bufio.NewReader(os.Stdin)

func main() {
	checks := map[string]check{}
	var names []string
	for _, group := range [][]check{
		kvChecks, txnChecks, watchChecks, leaseChecks, maintenanceChecks, clusterChecks, recipeChecks,
		wrapperChecks, authChecks, tlsChecks, failoverChecks,
	} {
		for _, c := range group {
			checks[c.name] = c
			names = append(names, c.name)
		}
	}
	if len(os.Args) == 2 && os.Args[1] == "list" {
		fmt.Println(strings.Join(names, "\n"))
		return
	}
	if len(os.Args) > 1 {
		names = os.Args[1:]
	}
	var main cluster
	readLine(&main)
	cli, err := clientv3.New(configOf(main))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer cli.Close()
	for _, name := range names {
		c, known := checks[name]
		if !known {
			fmt.Printf("FAIL %s: no such check\n", name)
			continue
		}
		if why := runCheck(c, main, cli); why != "" {
			fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(why, "\n", " | "))
		} else {
			fmt.Printf("PASS %s\n", name)
		}
	}
}

func runCheck(c check, main cluster, cli *clientv3.Client) (why string) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	t := &T{name: c.name, ctx: ctx, cluster: main, cli: cli}
	defer func() {
		if reason := recover(); reason != nil {
			failed, isFailure := reason.(failure)
			if !isFailure {
				panic(reason)
			}
			why = string(failed)
		}
	}()
	defer func() {
		for i := len(t.cleanups) - 1; i >= 0; i-- {
			t.cleanups[i]()
		}
	}()
	c.run(t)
	return ""
}

func configOf(c cluster) clientv3.Config {
	config := clientv3.Config{Endpoints: c.Endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if c.CAFile != "" {
		config.TLS = tlsOf(c)
	}
	return config
}

func tlsOf(c cluster) *tls.Config {
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(c.CAFile)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		panic(fmt.Sprintf("no authority in %s: %v", c.CAFile, err))
	}
	config := &tls.Config{RootCAs: pool}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			panic(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

func readLine(into any) {
	line, err := input.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, into)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "no answer: %q: %v\n", line, err)
		os.Exit(1)
	}
}

// ask has something done to the members and decodes the answer into answer, unless that is nil.
// From a goroutine other than the check's own it must not be called.
func (t *T) ask(what string, answer any) {
	request, _ := json.Marshal(map[string]string{"do": what})
	fmt.Printf("ASK %s\n", request)
	var reply struct {
		Error  string          `json:"error"`
		Answer json.RawMessage `json:"answer"`
	}
	readLine(&reply)
	if reply.Error != "" {
		t.fail("%s: %s", what, reply.Error)
	}
	if answer != nil {
		t.must(json.Unmarshal(reply.Answer, answer))
	}
}

// askCluster has a cluster started that differs from the main one as kind says.
func (t *T) askCluster(kind string) cluster {
	var c cluster
	t.ask("cluster "+kind, &c)
	return c
}

func (t *T) cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

// client is one of the check's own, closed when it ends.
func (t *T) client(config clientv3.Config) *clientv3.Client {
	cli, err := clientv3.New(config)
	t.must(err)
	t.cleanup(func() { cli.Close() })
	return cli
}

// another is a further client of the main cluster.
func (t *T) another() *clientv3.Client { return t.client(configOf(t.cluster)) }

// key is one that no other check uses; so is everything that begins with key("").
func (t *T) key(suffix string) string { return t.name + "/" + suffix }

// fail ends the check; the line that it names is the check's own.
func (t *T) fail(format string, args ...any) {
	where := ""
	for depth := 1; ; depth++ {
		_, file, line, known := runtime.Caller(depth)
		if !known {
			break
		}
		if file = filepath.Base(file); file != "main.go" {
			where = fmt.Sprintf("%s:%d: ", file, line)
			break
		}
	}
	panic(failure(where + fmt.Sprintf(format, args...)))
}

func (t *T) must(err error) {
	if err != nil {
		t.fail("%T: %v", err, err)
	}
}

func (t *T) is(what string, claim bool) {
	if !claim {
		t.fail("not so: %s", what)
	}
}

func (t *T) equal(what string, got, want any) {
	if integer, ok := asInteger(got); ok {
		if other, ok := asInteger(want); ok && integer == other {
			return
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.fail("%s: %v, not %v", what, got, want)
	}
}

func asInteger(value any) (int64, bool) {
	v := reflect.ValueOf(value)
	switch {
	case v.CanInt():
		return v.Int(), true
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint()), true
	}
	return 0, false
}

// refused says that err is want: by identity, or by its text where want is a string.
func (t *T) refused(what string, err error, want any) {
	text := fmt.Sprint(want)
	if err == nil || err != want && err.Error() != text {
		t.fail("%s: error %q, not %q", what, fmt.Sprint(err), text)
	}
}

// words are values with a space between each two, whatever their types.
func words(values ...any) string { return strings.TrimSuffix(fmt.Sprintln(values...), "\n") }

// alone is a client of one member only: what it has been told of, that member knows.
func (t *T) alone() *clientv3.Client {
	config := configOf(t.cluster)
	config.Endpoints = config.Endpoints[:1]
	return t.client(config)
}

// eventually waits until claim holds.
func (t *T) eventually(what string, claim func() bool) {
	for !claim() {
		select {
		case <-t.ctx.Done():
			t.fail("never: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// receive takes one value from a channel before the check's deadline.
func receive[V any](t *T, what string, from <-chan V) V {
	select {
	case value, open := <-from:
		if !open {
			t.fail("%s: the channel is closed", what)
		}
		return value
	case <-t.ctx.Done():
		t.fail("%s: nothing came", what)
	}
	panic("unreachable")
}

// closed waits until a channel is closed, whatever comes before that.
func closed[V any](t *T, what string, from <-chan V) {
	for {
		select {
		case _, open := <-from:
			if !open {
				return
			}
		case <-t.ctx.Done():
			t.fail("%s: not closed", what)
		}
	}
}

// all runs f count times at once and waits; the first failure of one is that of the check.
func (t *T) all(count int, f func(t *T, i int)) {
	reasons := make(chan any, count)
	for i := range count {
		go func() {
			defer func() { reasons <- recover() }()
			f(t, i)
		}()
	}
	var first any
	for range count {
		if reason := <-reasons; reason != nil && first == nil {
			first = reason
		}
	}
	if first != nil {
		panic(first)
	}
}

// pause is the time between two tries of what can only be asked for again.
func (t *T) pause() {
	select {
	case <-t.ctx.Done():
		t.fail("the time is up")
	case <-time.After(100 * time.Millisecond):
	}
}
