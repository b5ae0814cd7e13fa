package main

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var tlsChecks = []check{
	{"tls/server-only", tlsServerOnly},
	{"tls/mutual", tlsMutual},
	{"tls/common-name-is-the-user", tlsCommonName},
}

// reaches tells whether a client so configured gets an answer within a moment.
func (t *T) reaches(config clientv3.Config) error {
	config.DialTimeout = 3 * time.Second
	cli := t.client(config)
	ctx, cancel := context.WithTimeout(t.ctx, 3*time.Second)
	defer cancel()
	_, err := cli.Get(ctx, t.key("a"))
	return err
}

func tlsServerOnly(t *T) {
	server := t.askCluster("tls")
	server.CertFile = ""
	config := configOf(server)
	t.must(t.reaches(config))
	cli := t.client(config)
	_, err := cli.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	t.cli = cli
	events := t.watch(t.key("a"))
	t.put(t.key("a"), "2")
	t.equal("event", t.told(events, 1), "PUT a=2")

	config.TLS.RootCAs = nil
	t.is("an authority that is not trusted", t.reaches(config) != nil)
	plain := configOf(cluster{Endpoints: withoutScheme(server.Endpoints)})
	t.is("no TLS", t.reaches(plain) != nil)
}

func withoutScheme(endpoints []string) (bare []string) {
	for _, endpoint := range endpoints {
		bare = append(bare, endpoint[len("https://"):])
	}
	return bare
}

func tlsMutual(t *T) {
	both := t.askCluster("mtls")
	t.must(t.reaches(configOf(both)))
	both.CertFile = ""
	t.is("no certificate", t.reaches(configOf(both)) != nil)
	t.is("no TLS", t.reaches(configOf(cluster{Endpoints: withoutScheme(both.Endpoints)})) != nil)
}

// tlsCommonName: who shows a certificate needs no password; its common name is "root".
func tlsCommonName(t *T) {
	config := configOf(t.askCluster("mtls"))
	// Another member might not know yet that auth is on, and take a call without a user's name.
	config.Endpoints = config.Endpoints[:1]
	t.cli = t.client(config)
	t.enableAuth()
	defer t.disableAuth()
	_, err := t.cli.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	users, err := t.cli.UserList(t.ctx)
	t.must(err)
	t.equal("users", len(users.Users), 1)
}
