package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var authChecks = []check{
	{"auth/enable-refused", authEnableRefused},
	{"auth/users", authUsers},
	{"auth/roles", authRoles},
	{"auth/permissions", authPermissions},
	{"auth/ranges-joined", authRangesJoined},
	{"auth/transactions", authTransactions},
	{"auth/watches", authWatches},
	{"auth/leases", authLeases},
	{"auth/root-only", authRootOnly},
	{"auth/nobody", authNobody},
	{"auth/tokens-renewed", authTokensRenewed},
	{"auth/passwords", authPasswords},
	{"auth/root-is-kept", authRootIsKept},
	{"auth/recipes", authRecipes},
	{"auth/disabled", authDisabled},
}

const rootPassword = "root's password"

// enableAuth makes root and lets it rule; what the check does goes by t.cli, root's client from then on.
func (t *T) enableAuth() {
	_, err := t.cli.UserAdd(t.ctx, "root", rootPassword)
	t.must(err)
	_, err = t.cli.RoleAdd(t.ctx, "root")
	if err != rpctypes.ErrRoleAlreadyExist {
		t.must(err)
	}
	_, err = t.cli.UserGrantRole(t.ctx, "root", "root")
	t.must(err)
	_, err = t.cli.AuthEnable(t.ctx)
	t.must(err)
}

// disableAuth leaves neither users nor roles, as the next check expects.
func (t *T) disableAuth() {
	_, err := t.cli.AuthDisable(t.ctx)
	t.must(err)
	t.forgetUsers()
}

func (t *T) forgetUsers() {
	users, err := t.cli.UserList(t.ctx)
	t.must(err)
	for _, user := range users.Users {
		_, err = t.cli.UserDelete(t.ctx, user)
		t.must(err)
	}
	roles, err := t.cli.RoleList(t.ctx)
	t.must(err)
	for _, role := range roles.Roles {
		_, err = t.cli.RoleDelete(t.ctx, role)
		t.must(err)
	}
}

// as is a client of one user and of one member: another might not know the user's token yet.
func (t *T) as(user, password string) *clientv3.Client {
	config := configOf(t.cluster)
	config.Endpoints = config.Endpoints[:1]
	config.Username, config.Password = user, password
	return t.client(config)
}

// withAuth turns auth on for the rest of the check and gives root's client to it.
func (t *T) withAuth() {
	anyone := t.alone()
	t.cli = anyone
	t.enableAuth()
	config := configOf(t.cluster)
	config.Endpoints = config.Endpoints[:1]
	config.Username, config.Password = "root", rootPassword
	root, err := clientv3.New(config)
	t.must(err)
	t.cli = root
	t.cleanup(func() {
		// The check's own time may be up.
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		t.ctx = ctx
		if _, err := root.AuthDisable(ctx); err != nil {
			fmt.Println("auth stays enabled:", err)
		}
		root.Close()
		t.cli = anyone
		t.forgetUsers()
	})
}

// user makes one with a role of its name that may do what permissions say: "read a b" is [a, b).
func (t *T) user(name string, permissions ...string) *clientv3.Client {
	_, err := t.cli.UserAdd(t.ctx, name, name)
	t.must(err)
	_, err = t.cli.RoleAdd(t.ctx, name)
	t.must(err)
	for _, permission := range permissions {
		t.permit(name, permission)
	}
	_, err = t.cli.UserGrantRole(t.ctx, name, name)
	t.must(err)
	return t.as(name, name)
}

func (t *T) permit(role, permission string) {
	words := strings.Fields(permission)
	kind, err := clientv3.StrToPermissionType(words[0])
	t.must(err)
	end := ""
	switch {
	case len(words) > 2:
		end = t.key(words[2])
	case words[1] == "*":
		words[1], end = "", clientv3.GetPrefixRangeEnd(t.key(""))
	}
	_, err = t.cli.RoleGrantPermission(t.ctx, role, t.key(words[1]), end, kind)
	t.must(err)
}

func (t *T) denied(what string, err error) {
	t.refused(what, err, rpctypes.ErrPermissionDenied)
}

func authEnableRefused(t *T) {
	t.cli = t.alone()
	state, err := t.cli.AuthStatus(t.ctx)
	t.must(err)
	t.is("not enabled", !state.Enabled)
	_, err = t.cli.AuthEnable(t.ctx)
	t.refused("without root", err, rpctypes.ErrRootUserNotExist)
	_, err = t.cli.UserAdd(t.ctx, "root", rootPassword)
	t.must(err)
	_, err = t.cli.AuthEnable(t.ctx)
	t.refused("without its role", err, rpctypes.ErrRootRoleNotExist)
	t.forgetUsers()
	_, err = t.cli.Authenticate(t.ctx, "root", rootPassword)
	t.refused("authenticating when it is not enabled", err, rpctypes.ErrAuthNotEnabled)
	later, err := t.cli.AuthStatus(t.ctx)
	t.must(err)
	t.is("auth's revision rises", later.AuthRevision > state.AuthRevision)
}

func authUsers(t *T) {
	t.cli = t.alone()
	_, err := t.cli.UserAdd(t.ctx, "ann", "secret")
	t.must(err)
	_, err = t.cli.UserAdd(t.ctx, "ann", "secret")
	t.refused("twice", err, rpctypes.ErrUserAlreadyExist)
	_, err = t.cli.UserAdd(t.ctx, "", "secret")
	t.refused("no name", err, rpctypes.ErrUserEmpty)
	_, err = t.cli.UserAddWithOptions(t.ctx, "bob", "", &clientv3.UserAddOptions{NoPassword: true})
	t.must(err)
	list, err := t.cli.UserList(t.ctx)
	t.must(err)
	t.equal("users", strings.Join(list.Users, " "), "ann bob")
	for _, role := range []string{"zebra", "ape"} {
		_, err = t.cli.RoleAdd(t.ctx, role)
		t.must(err)
		_, err = t.cli.UserGrantRole(t.ctx, "ann", role)
		t.must(err)
	}
	ann, err := t.cli.UserGet(t.ctx, "ann")
	t.must(err)
	t.equal("roles", strings.Join(ann.Roles, " "), "ape zebra")
	_, err = t.cli.UserRevokeRole(t.ctx, "ann", "zebra")
	t.must(err)
	_, err = t.cli.UserRevokeRole(t.ctx, "ann", "zebra")
	t.refused("revoked twice", err, rpctypes.ErrRoleNotGranted)
	_, err = t.cli.UserGrantRole(t.ctx, "ann", "none")
	t.refused("a role that is not there", err, rpctypes.ErrRoleNotFound)
	_, err = t.cli.UserGrantRole(t.ctx, "none", "ape")
	t.refused("a user that is not there", err, rpctypes.ErrUserNotFound)
	_, err = t.cli.UserChangePassword(t.ctx, "none", "x")
	t.refused("the password of nobody", err, rpctypes.ErrUserNotFound)
	_, err = t.cli.UserDelete(t.ctx, "none")
	t.refused("deleting nobody", err, rpctypes.ErrUserNotFound)
	_, err = t.cli.UserGet(t.ctx, "none")
	t.refused("getting nobody", err, rpctypes.ErrUserNotFound)
	t.forgetUsers()
}

func authRoles(t *T) {
	t.cli = t.alone()
	_, err := t.cli.RoleAdd(t.ctx, "reader")
	t.must(err)
	_, err = t.cli.RoleAdd(t.ctx, "reader")
	t.refused("twice", err, rpctypes.ErrRoleAlreadyExist)
	_, err = t.cli.RoleAdd(t.ctx, "")
	t.refused("no name", err, rpctypes.ErrRoleEmpty)
	t.permit("reader", "read b d")
	t.permit("reader", "write a")
	t.permit("reader", "readwrite a")
	_, err = t.cli.RoleGrantPermission(t.ctx, "none", "a", "", clientv3.PermissionType(clientv3.PermRead))
	t.refused("to no role", err, rpctypes.ErrRoleNotFound)
	role, err := t.cli.RoleGet(t.ctx, "reader")
	t.must(err)
	t.equal("permissions", len(role.Perm), 2)
	t.equal("first", fmt.Sprint(role.Perm[0].PermType, string(role.Perm[0].Key)), fmt.Sprint(authpb.READWRITE, t.key("a")))
	_, err = t.cli.RoleRevokePermission(t.ctx, "reader", t.key("b"), t.key("c"))
	t.refused("another range", err, rpctypes.ErrPermissionNotGranted)
	_, err = t.cli.RoleRevokePermission(t.ctx, "reader", t.key("b"), t.key("d"))
	t.must(err)
	list, err := t.cli.RoleList(t.ctx)
	t.must(err)
	t.equal("roles", strings.Join(list.Roles, " "), "reader")
	_, err = t.cli.UserAdd(t.ctx, "ann", "secret")
	t.must(err)
	_, err = t.cli.UserGrantRole(t.ctx, "ann", "reader")
	t.must(err)
	_, err = t.cli.RoleDelete(t.ctx, "reader")
	t.must(err)
	ann, err := t.cli.UserGet(t.ctx, "ann")
	t.must(err)
	t.equal("roles of a user after the deletion", len(ann.Roles), 0)
	_, err = t.cli.RoleGet(t.ctx, "reader")
	t.refused("gone", err, rpctypes.ErrRoleNotFound)
	_, err = t.cli.RoleDelete(t.ctx, "reader")
	t.refused("deleted twice", err, rpctypes.ErrRoleNotFound)
	t.forgetUsers()
}

func authPermissions(t *T) {
	t.withAuth()
	ann := t.user("ann", "read r", "write w", "readwrite m n")
	_, err := ann.Get(t.ctx, t.key("r"))
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("r"), "x")
	t.denied("put where one may read", err)
	_, err = ann.Put(t.ctx, t.key("w"), "x")
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("w"))
	t.denied("get where one may write", err)
	_, err = ann.Put(t.ctx, t.key("w"), "y", clientv3.WithPrevKV())
	t.denied("put that shows what was there", err)
	_, err = ann.Delete(t.ctx, t.key("w"), clientv3.WithPrevKV())
	t.denied("deletion that shows what was there", err)
	_, err = ann.Delete(t.ctx, t.key("w"))
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("m5"), "x", clientv3.WithPrevKV())
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("m"), clientv3.WithRange(t.key("n")))
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("m"), clientv3.WithRange(t.key("o")))
	t.denied("a range beyond", err)
	_, err = ann.Get(t.ctx, t.key("m"), clientv3.WithFromKey())
	t.denied("everything from there", err)
	_, err = ann.Get(t.ctx, t.key("r"), clientv3.WithSerializable())
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("x"), clientv3.WithSerializable())
	t.denied("a serializable read", err)
	_, err = ann.Delete(t.ctx, t.key(""), clientv3.WithPrefix())
	t.denied("deletion of all", err)
}

func authRangesJoined(t *T) {
	t.withAuth()
	ann := t.user("ann", "read a c", "read c e", "read b d", "read g h")
	_, err := ann.Get(t.ctx, t.key("a"), clientv3.WithRange(t.key("e")))
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("a"), clientv3.WithRange(t.key("h")))
	t.denied("across a gap", err)
	t.permit("ann", "read e g")
	_, err = ann.Get(t.ctx, t.key("a"), clientv3.WithRange(t.key("h")))
	t.must(err)
	_, err = t.cli.UserRevokeRole(t.ctx, "ann", "ann")
	t.must(err)
	_, err = ann.Get(t.ctx, t.key("a"))
	t.denied("without the role", err)
}

// authTransactions has a cluster of its own: the members of an etcd whose client is refused a
// transaction because of what it would read do not all refuse it, and differ from then on.
func authTransactions(t *T) {
	t.cluster = t.askCluster("spare")
	t.withAuth()
	ann := t.user("ann", "read r", "write w")
	read, write := clientv3.OpGet(t.key("r")), clientv3.OpPut(t.key("w"), "1")
	hidden := clientv3.OpGet(t.key("h"))
	holds := clientv3.Compare(clientv3.Version(t.key("r")), ">", -1)
	_, err := ann.Txn(t.ctx).If(holds).Then(write, read).Else(read).Commit()
	t.must(err)
	for what, txn := range map[string]clientv3.Txn{
		"compare":                  ann.Txn(t.ctx).If(clientv3.Compare(clientv3.Version(t.key("h")), "=", 0)).Then(write),
		"the branch taken":         ann.Txn(t.ctx).If(holds).Then(write, hidden),
		"the branch not taken":     ann.Txn(t.ctx).If(holds).Then(write).Else(hidden),
		"nested":                   ann.Txn(t.ctx).If(holds).Then(clientv3.OpTxn(nil, []clientv3.Op{hidden}, nil)),
		"nested, not taken":        ann.Txn(t.ctx).Else(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpDelete(t.key("h"))})),
		"nested compare":           ann.Txn(t.ctx).Then(clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(t.key("h")), "=", 0)}, nil, nil)),
		"put that shows the value": ann.Txn(t.ctx).Then(clientv3.OpPut(t.key("w"), "2", clientv3.WithPrevKV())),
		"read only":                ann.Txn(t.ctx).Then(hidden),
	} {
		_, err := txn.Commit()
		t.denied(what, err)
		t.equal("writes after "+what, t.get(t.key("w")).Kvs[0].Version, 1)
	}
	got := t.get(t.key("w"))
	t.equal("writes of all that", got.Kvs[0].Version, 1)
}

func authWatches(t *T) {
	t.withAuth()
	ann := t.user("ann", "read a c")
	events := t.watchBy(ann, t.key("a"), clientv3.WithRange(t.key("c")))
	for what, options := range map[string][]clientv3.OpOption{
		"another key":             nil,
		"everything from the key": {clientv3.WithFromKey()},
	} {
		key := t.key("c")
		if options != nil {
			key = t.key("a")
		}
		response := receive(t, "answer", ann.Watch(t.ctx, key, options...))
		t.is(what+" is cancelled: "+fmt.Sprint(response.Err()), response.Canceled &&
			strings.Contains(response.Err().Error(), "permission denied"))
	}
	t.put(t.key("b"), "1")
	t.equal("the permitted one goes on", t.told(events, 1), "PUT b=1")
}

func authLeases(t *T) {
	t.withAuth()
	ann := t.user("ann", "readwrite a")
	id := t.grant(600)
	t.put(t.key("b"), "1", clientv3.WithLease(id))
	_, err := ann.Revoke(t.ctx, id)
	t.denied("revoking what would delete another's key", err)
	_, err = ann.TimeToLive(t.ctx, id, clientv3.WithAttachedKeys())
	t.denied("keys that one may not read", err)
	_, err = ann.TimeToLive(t.ctx, id)
	t.must(err)
	own, err := ann.Grant(t.ctx, 600)
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("a"), "1", clientv3.WithLease(own.ID))
	t.must(err)
	_, err = ann.KeepAliveOnce(t.ctx, own.ID)
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("a"), "1", clientv3.WithLease(id))
	t.denied("joining a lease with another's key", err)
	_, err = ann.Revoke(t.ctx, own.ID)
	t.must(err)
	t.revoke(id)
	t.expiresUnderAuth()
}

// expiresUnderAuth: the members end leases themselves, whoever may write the keys.
func (t *T) expiresUnderAuth() {
	id := t.grant(2)
	t.put(t.key("b"), "1", clientv3.WithLease(id))
	t.eventually("the key goes", func() bool { return t.get(t.key("b")).Count == 0 })
}

func authRootOnly(t *T) {
	t.withAuth()
	ann := t.user("ann", "readwrite *")
	revision := t.put(t.key("a"), "1")
	_, err := ann.Compact(t.ctx, revision)
	t.denied("compaction", err)
	_, err = ann.UserAdd(t.ctx, "eve", "x")
	t.denied("a new user", err)
	_, err = ann.UserList(t.ctx)
	t.denied("users", err)
	_, err = ann.RoleAdd(t.ctx, "x")
	t.denied("a new role", err)
	_, err = ann.UserGrantRole(t.ctx, "ann", "root")
	t.denied("more for oneself", err)
	_, err = ann.AuthDisable(t.ctx)
	t.denied("disabling", err)
	_, err = ann.MemberRemove(t.ctx, 4711)
	t.denied("removing a member", err)
	_, err = ann.MemberAddAsLearner(t.ctx, []string{"http://127.0.0.1:1"})
	t.denied("adding a member", err)
	_, err = ann.Defragment(t.ctx, t.cluster.Endpoints[0])
	t.denied("defragmentation", err)
	_, err = ann.HashKV(t.ctx, t.cluster.Endpoints[0], 0)
	t.denied("hash", err)
	_, err = ann.MoveLeader(t.ctx, 4711)
	t.denied("moving the leader", err)
	_, err = ann.RoleGet(t.ctx, "root")
	t.denied("another's role", err)
	own, err := ann.UserGet(t.ctx, "ann")
	t.must(err)
	t.equal("own roles", strings.Join(own.Roles, " "), "ann")
	_, err = ann.RoleGet(t.ctx, "ann")
	t.must(err)
	_, err = ann.MemberList(t.ctx)
	t.must(err)
	_, err = ann.Status(t.ctx, t.cluster.Endpoints[0])
	t.must(err)
}

func authNobody(t *T) {
	t.withAuth()
	nobody := t.alone()
	_, err := nobody.Get(t.ctx, t.key("a"))
	t.refused("get", err, rpctypes.ErrUserEmpty)
	_, err = nobody.Put(t.ctx, t.key("a"), "1")
	t.refused("put", err, rpctypes.ErrUserEmpty)
	_, err = nobody.Txn(t.ctx).Then(clientv3.OpGet(t.key("a"))).Commit()
	t.refused("transaction", err, rpctypes.ErrUserEmpty)
	_, err = nobody.Grant(t.ctx, 60)
	t.refused("lease", err, rpctypes.ErrUserEmpty)
	_, err = nobody.MemberList(t.ctx)
	t.refused("members", err, rpctypes.ErrUserEmpty)
	_, err = nobody.AlarmList(t.ctx)
	t.refused("alarms", err, rpctypes.ErrUserEmpty)
	_, err = nobody.Compact(t.ctx, 2)
	t.refused("compaction", err, rpctypes.ErrUserEmpty)
	_, err = nobody.UserList(t.ctx)
	t.refused("users", err, rpctypes.ErrUserEmpty)
	response := receive(t, "answer", nobody.Watch(t.ctx, t.key("a")))
	t.is("a watch is cancelled: "+fmt.Sprint(response.Err()), response.Err() != nil)
}

// authTokensRenewed: each change of users or roles makes older tokens useless; the client gets new ones.
func authTokensRenewed(t *T) {
	t.withAuth()
	ann := t.user("ann", "readwrite *")
	events := t.watchBy(ann, t.key(""), clientv3.WithPrefix())
	for i := range 5 {
		_, err := t.cli.RoleAdd(t.ctx, fmt.Sprint("role", i))
		t.must(err)
		_, err = ann.Put(t.ctx, t.key("a"), fmt.Sprint(i))
		t.must(err)
		_, err = ann.Get(t.ctx, t.key("a"))
		t.must(err)
		t.equal("event", t.told(events, 1), fmt.Sprintf("PUT a=%d", i))
	}
}

func authPasswords(t *T) {
	t.withAuth()
	t.user("ann", "readwrite *")
	config := configOf(t.cluster)
	for _, wrong := range []string{"wrong", ""} {
		config.Username, config.Password = "ann", wrong
		if wrong == "" {
			config.Username, config.Password = "nobody", "x"
		}
		_, err := clientv3.New(config)
		t.refused("a wrong name or password", err, rpctypes.ErrAuthFailed)
	}
	_, err := t.cli.UserChangePassword(t.ctx, "ann", "new")
	t.must(err)
	ann := t.as("ann", "new")
	_, err = ann.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	config.Username, config.Password = "ann", "ann"
	_, err = clientv3.New(config)
	t.refused("the old password", err, rpctypes.ErrAuthFailed)
	_, err = t.cli.UserAddWithOptions(t.ctx, "bob", "", &clientv3.UserAddOptions{NoPassword: true})
	t.must(err)
	_, err = t.cli.Authenticate(t.ctx, "bob", "")
	t.refused("one who has none", err, "rpc error: code = Unknown desc = auth: authentication failed, password was given for no password user")
	_, err = t.cli.UserDelete(t.ctx, "ann")
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("a"), "2")
	t.is("one who is deleted", err != nil)
}

func authRootIsKept(t *T) {
	t.withAuth()
	_, err := t.cli.UserDelete(t.ctx, "root")
	t.refused("deleting root", err, rpctypes.ErrInvalidAuthMgmt)
	_, err = t.cli.RoleDelete(t.ctx, "root")
	t.refused("deleting its role", err, rpctypes.ErrInvalidAuthMgmt)
	_, err = t.cli.UserRevokeRole(t.ctx, "root", "root")
	t.refused("revoking its role", err, rpctypes.ErrInvalidAuthMgmt)
	role, err := t.cli.RoleGet(t.ctx, "root")
	t.must(err)
	t.equal("its permission", len(role.Perm), 1)
	ann := t.user("ann")
	_, err = t.cli.UserGrantRole(t.ctx, "ann", "root")
	t.must(err)
	_, err = ann.UserList(t.ctx)
	t.must(err)
	_, err = ann.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	state, err := t.cli.AuthStatus(t.ctx)
	t.must(err)
	t.is("enabled", state.Enabled)
}

func authRecipes(t *T) {
	t.withAuth()
	ann := t.user("ann", "readwrite *")
	s, err := concurrency.NewSession(ann)
	t.must(err)
	mutex := concurrency.NewMutex(s, t.key("lock"))
	t.must(mutex.Lock(t.ctx))
	t.must(mutex.Unlock(t.ctx))
	e := concurrency.NewElection(s, t.key("e"))
	t.must(e.Campaign(t.ctx, "ann"))
	t.must(e.Resign(t.ctx))
	t.must(s.Close())
}

func authDisabled(t *T) {
	t.cli = t.alone()
	t.enableAuth()
	root := t.as("root", rootPassword)
	_, err := root.AuthDisable(t.ctx)
	t.must(err)
	t.put(t.key("a"), "1")
	_, err = root.Get(t.ctx, t.key("a"))
	t.must(err)
	t.forgetUsers()
}
