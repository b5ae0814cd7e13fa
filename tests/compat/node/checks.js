'use strict';
// gRPC from Node, by the package etcd3.

const assert = require('assert');
const fs = require('fs');
const {
  Etcd3,
  EtcdAuthenticationFailedError,
  EtcdError,
  EtcdLeaseInvalidError,
  EtcdLockFailedError,
  EtcdPermissionDeniedError,
  EtcdRoleExistsError,
  EtcdRoleNotFoundError,
  EtcdRoleNotGrantedError,
  EtcdUserExistsError,
  EtcdUserNotFoundError,
  GRPCFailedPreconditionError,
  GRPCInvalidArgumentError,
  GRPCNotFoundError,
  GRPCOutOfRangeError,
  NotCampaigningError,
} = require('etcd3');
const { ask, check, cleanup, eventually, key, refused } = require('./harness');

const { deepStrictEqual: equal, ok } = assert;
const ROOT_PASSWORD = "root's password";

function client(members, options = {}) {
  const made = new Etcd3({ hosts: members.endpoints, ...options });
  cleanup(() => made.close());
  return made;
}

/** A client of one member only: what it has been told of, that member knows. */
function alone(members, position = 0, options = {}) {
  return client(members, { ...options, hosts: [members.endpoints[position]] });
}

async function put(cli, name, value) {
  const response = await cli.put(name).value(value);
  return Number(response.header.revision);
}

/** What a watch tells: "Put a=1". */
class Events {
  constructor(watcher) {
    this.watcher = watcher;
    this.said = [];
    this.responses = [];
    watcher.on('data', response => {
      this.responses.push(response);
      for (const { type, kv } of response.events) {
        const name = kv.key.toString();
        this.said.push(`${type} ${name.slice(name.lastIndexOf('/') + 1)}=${kv.value}`);
      }
    });
    cleanup(() => watcher.cancel());
  }

  async told(count) {
    await eventually(`${count} events`, () => this.said.length >= count);
    return this.said.splice(0, count);
  }
}

async function watch(builder) {
  return new Events(await builder.create());
}

// Keys and values.

check('kv/put-get-delete', async members => {
  const cli = client(members);
  equal(await cli.get(key('a')), null);
  const first = await put(cli, key('a'), '1');
  const bytes = Buffer.from([0, 255, 10]);
  const before = await cli.put(key('a')).value(bytes).getPrevious();
  equal(before.value.toString(), '1');
  equal(await cli.get(key('a')).buffer(), bytes);
  const [pair] = (await cli.get(key('a')).exec()).kvs;
  equal([pair.version, Number(pair.create_revision)], ['2', first]);
  equal(await cli.get(key('a')).revision(first).string(), '1');
  equal(await cli.get(key('a')).serializable(true).exists(), true);
  await cli.put(key('n')).value(42);
  equal(await cli.get(key('n')).number(), 42);
  await cli.put(key('n')).value('{"a": [1]}');
  equal(await cli.get(key('n')).json(), { a: [1] });
  equal((await cli.delete().key(key('a'))).deleted, '1');
  equal((await cli.delete().key(key('a'))).deleted, '0');
});

check('kv/ranges', async members => {
  const cli = client(members);
  for (const name of ['c', 'a', 'd', 'b']) {
    await cli.put(key(name)).value(name + name);
  }
  const all = () => cli.getAll().prefix(key());
  equal(await all().strings(), { [key('a')]: 'aa', [key('b')]: 'bb', [key('c')]: 'cc', [key('d')]: 'dd' });
  equal(await all().keys(), ['a', 'b', 'c', 'd'].map(name => key(name)));
  equal(await all().count(), 4);
  equal(await all().sort('Key', 'Descend').limit(2).keys(), [key('d'), key('c')]);
  equal(Object.values(await all().sort('Mod', 'Ascend')), ['cc', 'aa', 'dd', 'bb']);
  const page = await all().limit(3).exec();
  equal([page.more, page.count], [true, '4']);
  equal(await cli.getAll().inRange({ start: key('a'), end: key('c') }).keys(), [key('a'), key('b')]);
  const previous = await cli.delete().inRange({ start: key('a'), end: key('c') }).getPrevious();
  equal(previous.map(pair => pair.value.toString()), ['aa', 'bb']);
  equal((await cli.delete().prefix(key())).deleted, '2');
  const inside = cli.namespace(key('ns/'));
  await inside.put('x').value('1');
  equal(await inside.getAll().keys(), ['x']);
  equal(await cli.get(key('ns/x')), '1');
});

check('kv/transactions', async members => {
  const cli = client(members);
  await cli.put(key('a')).value('5');
  const attempt = () =>
    cli
      .if(key('a'), 'Value', '==', '5')
      .and(key('a'), 'Version', '==', 1)
      .and(key('b'), 'Create', '==', 0)
      .and(key('a'), 'Mod', '>', 0)
      .then(cli.put(key('b')).value('won'), cli.get(key('b')), cli.delete().key(key('a')))
      .else(cli.get(key('b')))
      .commit();
  const won = await attempt();
  ok(won.succeeded);
  equal(won.responses[1].response_range.kvs[0].value.toString(), 'won');
  equal(won.responses[2].response_delete_range.deleted, '1');
  const lost = await attempt();
  ok(!lost.succeeded);
  equal(lost.responses[0].response_range.kvs[0].value.toString(), 'won');
  await refused('the same key twice', GRPCInvalidArgumentError, 'etcdserver: duplicate key given in txn request', () =>
    cli.if(key('b'), 'Version', '>', 0).then(cli.put(key('x')).value(''), cli.put(key('x')).value('')).commit(),
  );
});

check('kv/software-transactions', async members => {
  // The library reads at revisions that another member may not have applied yet.
  const cli = alone(members);
  await cli.put(key('from')).value(100);
  await cli.put(key('to')).value(0);
  const move = async () =>
    // The library's isolation by default takes two keys of different age for a conflict.
    cli.stm({ retries: 1000, isolation: 1 }).transact(async tx => {
      const from = await tx.get(key('from')).number();
      const to = await tx.get(key('to')).number();
      await tx.put(key('from')).value(from - 1);
      await tx.put(key('to')).value(to + 1);
    });
  await Promise.all(
    Array.from({ length: 5 }, async () => {
      for (let i = 0; i < 4; i++) {
        await move();
      }
    }),
  );
  equal(await cli.get(key('from')).number(), 80);
  equal(await cli.get(key('to')).number(), 20);
});

check('kv/refused', async members => {
  const cli = client(members);
  const revision = await put(cli, key('a'), '1');
  await refused('no key', GRPCInvalidArgumentError, 'etcdserver: key is not provided', () => cli.put('').value('x'));
  await refused('a revision to come', GRPCOutOfRangeError, 'etcdserver: mvcc: required revision is a future revision', () =>
    cli.get(key('a')).revision(revision + 1000).string(),
  );
  await refused('a lease that is not there', EtcdLeaseInvalidError, 'etcdserver: requested lease not found is expired or revoked', () =>
    cli.put(key('a')).value('').lease('4711'),
  );
  await refused('too large', GRPCInvalidArgumentError, 'etcdserver: request is too large', () =>
    cli.put(key('a')).value(Buffer.alloc(1_600_000)),
  );
  await refused('no value to keep', GRPCInvalidArgumentError, 'etcdserver: key not found', () => cli.put(key('none')).touch());
});

check('kv/compacted', async members => {
  const cli = alone(members);
  const first = await put(cli, key('a'), '1');
  const second = await put(cli, key('a'), '2');
  await cli.kv.compact({ revision: second, physical: true });
  const text = 'etcdserver: mvcc: required revision has been compacted';
  await refused('a compacted revision', GRPCOutOfRangeError, text, () => cli.get(key('a')).revision(first).string());
  await refused('twice', GRPCOutOfRangeError, text, () => cli.kv.compact({ revision: second }));
  equal(await cli.get(key('a')).revision(second).string(), '2');
  const watcher = cli.watch().key(key('a')).startRevision(String(first)).watcher();
  const error = await new Promise(resolve => watcher.once('error', resolve));
  ok(error instanceof EtcdError, error.constructor.name);
  equal(error.message, 'Watcher canceled: ');
});

// Watches.

check('watch/puts-and-deletions', async members => {
  const cli = client(members);
  const all = await watch(cli.watch().prefix(key()));
  const one = await watch(cli.watch().key(key('a')));
  await cli.put(key('a')).value('1');
  await cli.put(key('b')).value('2');
  await cli.delete().key(key('a'));
  equal(await all.told(3), ['Put a=1', 'Put b=2', 'Delete a=']);
  equal(await one.told(2), ['Put a=1', 'Delete a=']);
  await all.watcher.cancel();
  await cli.put(key('a')).value('3');
  equal(await one.told(1), ['Put a=3']);
  equal(all.said, []);
});

check('watch/from-the-past', async members => {
  const cli = client(members);
  const first = await put(cli, key('a'), '1');
  await cli.put(key('b')).value('2');
  await cli.delete().key(key('a'));
  const events = await watch(cli.watch().prefix(key()).startRevision(String(first)));
  equal(await events.told(3), ['Put a=1', 'Put b=2', 'Delete a=']);
  await cli.put(key('c')).value('3');
  equal(await events.told(1), ['Put c=3']);
});

check('watch/filters-and-previous-pairs', async members => {
  const cli = client(members);
  const puts = await watch(cli.watch().prefix(key()).only('put').withPreviousKV());
  const deletions = await watch(cli.watch().prefix(key()).only('delete').withPreviousKV());
  await cli.put(key('a')).value('1');
  await cli.put(key('a')).value('2');
  await cli.delete().key(key('a'));
  await cli.put(key('a')).value('3');
  equal(await puts.told(3), ['Put a=1', 'Put a=2', 'Put a=3']);
  equal(await deletions.told(1), ['Delete a=']);
  const before = puts.responses.flatMap(response => response.events.map(event => event.prev_kv && event.prev_kv.value.toString()));
  equal(before, [null, '1', null]);
  equal(deletions.responses.flatMap(response => response.events)[0].prev_kv.value.toString(), '2');
});

check('watch/progress', async members => {
  const cli = client(members);
  const events = await watch(cli.watch().key(key('a')));
  const revision = await put(cli, key('other'), '1');
  // The members are told to notify every second; the library always asks for it.
  await eventually('progress', () =>
    events.responses.some(response => response.events.length === 0 && Number(response.header.revision) >= revision),
  );
});

check('watch/many-events-whole-and-in-order', async members => {
  const cli = client(members);
  const watches = [];
  for (let i = 0; i < 20; i++) {
    watches.push(await watch(cli.watch().prefix(key())));
  }
  await Promise.all(Array.from({ length: 200 }, () => cli.put(key('n')).value('v')));
  for (const events of watches) {
    await events.told(200);
    const revisions = events.responses.flatMap(response => response.events.map(event => Number(event.kv.mod_revision)));
    equal(revisions, Array.from({ length: 200 }, (_, i) => revisions[0] + i));
  }
});

// Leases.

check('lease/grant-attach-revoke', async members => {
  const cli = client(members);
  const lease = cli.lease(600);
  const id = await lease.grant();
  await lease.put(key('a')).value('1');
  await cli.put(key('b')).value('1').lease(id);
  const told = await cli.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  equal(told.keys.map(String).sort(), [key('a'), key('b')]);
  ok(Number(told.TTL) > 590 && told.grantedTTL === '600');
  equal((await lease.keepaliveOnce()).TTL, '600');
  ok((await cli.leaseClient.leaseLeases()).leases.some(one => one.ID === id));
  await lease.revoke();
  equal(await cli.getAll().prefix(key()).count(), 0);
  equal((await cli.leaseClient.leaseTimeToLive({ ID: id })).TTL, '-1');
  await refused('revoked twice', EtcdLeaseInvalidError, 'etcdserver: requested lease not found is expired or revoked', () =>
    cli.leaseClient.leaseRevoke({ ID: id }),
  );
  const known = await cli.leaseClient.leaseGrant({ TTL: 60 });
  await refused('the same twice', GRPCFailedPreconditionError, 'etcdserver: lease already exists', () =>
    cli.leaseClient.leaseGrant({ TTL: 60, ID: known.ID }),
  );
  await cli.leaseClient.leaseRevoke({ ID: known.ID });
  await refused('too long', GRPCOutOfRangeError, 'etcdserver: too large lease TTL', () => cli.leaseClient.leaseGrant({ TTL: 9_000_000_001 }));
});

check('lease/kept-alive-and-lost', async members => {
  const cli = client(members);
  const kept = cli.lease(2);
  const left = cli.lease(2, { autoKeepAlive: false });
  let renewed = 0;
  kept.on('keepaliveSucceeded', () => renewed++);
  await kept.put(key('kept')).value('1');
  await left.put(key('left')).value('1');
  await eventually('the other runs out', async () => (await cli.get(key('left'))) === null);
  equal(await cli.get(key('kept')), '1');
  await eventually('renewals', () => renewed > 2);
  const lost = new Promise(resolve => kept.once('lost', resolve));
  await cli.leaseClient.leaseRevoke({ ID: await kept.grant() });
  ok((await lost) instanceof EtcdLeaseInvalidError);
  equal(await cli.get(key('kept')), null);
});

// Locks and elections.

check('lock/one-at-a-time', async members => {
  const cli = client(members);
  await cli.lock(key('l')).do(async () => {
    await refused('another', EtcdLockFailedError, '', () => client(members).lock(key('l')).acquire());
  });
  const again = await client(members).lock(key('l')).ttl(60).acquire();
  await again.release();
  equal(await cli.getAll().prefix(key('l')).count(), 0);
});

check('election/one-after-the-other', async members => {
  const cli = client(members);
  const election = cli.election(key('e'), 30);
  const first = election.campaign('one');
  await first.wait();
  equal(await election.leader(), 'one');
  const observer = await election.observe();
  cleanup(() => observer.cancel());
  equal(observer.leader(), 'one');
  const second = client(members).election(key('e'), 30).campaign('two');
  let isSecondElected = false;
  second.on('elected', () => (isSecondElected = true));
  await first.proclaim('uno');
  await eventually('uno', () => observer.leader() === 'uno');
  ok(!isSecondElected);
  await first.resign();
  await eventually('two', () => isSecondElected && observer.leader() === 'two');
  await refused('after it', NotCampaigningError, '', () => first.proclaim('x'));
  await second.resign();
  await eventually('nobody', async () => (await election.leader()) === undefined);
});

// The cluster.

check('cluster/members', async members => {
  const cli = client(members);
  const listed = (await cli.cluster.memberList({})).members;
  equal(listed.map(member => member.name).sort(), ['m1', 'm2', 'm3']);
  equal(listed.flatMap(member => member.clientURLs).sort(), [...members.endpoints].sort());
  const joining = await ask('new-member');
  let added;
  await eventually('added', async () => {
    try {
      added = await cli.cluster.memberAdd({ peerURLs: [joining.peer_url], isLearner: true });
      return true;
    } catch (error) {
      // The members have known each other for a few seconds only; the library soon waits before it asks again.
      ok(/etcdserver: unhealthy cluster$|circuit breaker is open/.test(error.message), error.message);
      return false;
    }
  });
  equal([added.member.isLearner, added.members.length], [true, 4]);
  await ask('start-member');
  await eventually('promoted', async () => {
    try {
      return await cli.cluster.memberPromote({ ID: added.member.ID });
    } catch (error) {
      ok(error.message.includes('can only promote a learner member which is in sync with leader'), error.message);
      return false;
    }
  });
  await cli.cluster.memberRemove({ ID: added.member.ID });
  await eventually('gone', async () => (await cli.cluster.memberList({})).members.length === 3);
  await ask('drop-member');
  await refused('nobody', GRPCNotFoundError, 'etcdserver: member not found', () => cli.cluster.memberRemove({ ID: '4711' }));
});

check('maintenance/calls', async members => {
  const cli = alone(members);
  const status = await cli.maintenance.status();
  ok(status.version.startsWith('3.') && Number(status.dbSize) > 0 && Number(status.raftTerm) > 1 && status.leader !== '0');
  equal((await cli.maintenance.alarm({ action: 'Get' })).alarms, []);
  ok((await cli.maintenance.hash()).hash > 0);
  await cli.maintenance.defragment();
  const stream = await cli.maintenance.snapshot();
  let [size, left] = [0, ''];
  await new Promise((resolve, reject) => {
    stream.on('data', part => {
      size += part.blob.length;
      left = part.remaining_bytes;
    });
    stream.on('end', resolve);
    stream.on('error', reject);
  });
  ok(size > 1000 && left === '0');
});

// Auth.

async function forgetUsers(cli) {
  for (const user of await cli.getUsers()) {
    await user.delete();
  }
  for (const role of await cli.getRoles()) {
    await role.delete();
  }
}

check('auth/users-and-roles-are-kept', async members => {
  const cli = alone(members);
  await refused('no root', GRPCFailedPreconditionError, 'etcdserver: root user does not exist', () => cli.auth.authEnable());
  const ann = await cli.user('ann').create('secret');
  const writer = await cli.role('writer').create();
  await refused('twice', EtcdUserExistsError, 'etcdserver: user name already exists', () => cli.user('ann').create('x'));
  await refused('twice', EtcdRoleExistsError, 'etcdserver: role name already exists', () => cli.role('writer').create());
  await refused('nobody', EtcdUserNotFoundError, 'etcdserver: user name not found', () => cli.user('bob').delete());
  await refused('no role', EtcdRoleNotFoundError, 'etcdserver: role name not found', () => cli.role('reader').delete());
  await refused('not granted', EtcdRoleNotGrantedError, 'etcdserver: role is not granted to the user', () => ann.removeRole('writer'));
  await writer.grant([
    { permission: 'Readwrite', range: cli.range({ prefix: 'a/' }) },
    { permission: 'Read', key: 'b' },
  ]);
  await writer.addUser(ann);
  equal((await ann.roles()).map(role => role.name), ['writer']);
  equal((await writer.permissions()).map(one => one.permission).sort(), ['Read', 'Readwrite']);
  await writer.revoke({ permission: 'Read', key: 'b' });
  equal((await writer.permissions()).length, 1);
  await forgetUsers(cli);
  equal((await cli.getUsers()).length, 0);
});

check('auth/permissions', async members => {
  const anyone = alone(members);
  await anyone.user('root').create(ROOT_PASSWORD);
  await anyone.role('root').create();
  await anyone.user('root').addRole('root');
  await anyone.auth.authEnable();
  const root = alone(members, 0, { auth: { username: 'root', password: ROOT_PASSWORD } });
  cleanup(async () => {
    await root.auth.authDisable();
    await forgetUsers(anyone);
  });
  await root.user('ann').create('secret');
  await root.role('writer').create();
  await root.role('writer').grant({ permission: 'Readwrite', range: root.range({ prefix: key('a/') }) });
  await root.user('ann').addRole('writer');
  const ann = alone(members, 0, { auth: { username: 'ann', password: 'secret' } });
  const denied = 'etcdserver: permission denied';
  const events = await watch(ann.watch().prefix(key('a/')));
  await ann.put(key('a/1')).value('1');
  equal(await ann.get(key('a/1')), '1');
  equal(await events.told(1), ['Put 1=1']);
  await refused('put elsewhere', EtcdPermissionDeniedError, denied, () => ann.put(key('b')).value('x'));
  await refused('get elsewhere', EtcdPermissionDeniedError, denied, () => ann.getAll().prefix(key()).exec());
  await refused('a transaction elsewhere', EtcdPermissionDeniedError, denied, () =>
    ann.if(key('a/1'), 'Version', '>', 0).then(ann.put(key('b')).value('x')).commit(),
  );
  await refused("root's business", EtcdPermissionDeniedError, denied, () => ann.user('bob').create('x'));
  await refused('nobody', GRPCInvalidArgumentError, 'etcdserver: user name is empty', () => anyone.get(key('a/1')).string());
  const wrong = alone(members, 0, { auth: { username: 'ann', password: 'wrong' } });
  await refused('a wrong password', EtcdAuthenticationFailedError, 'invalid user ID or password', () => wrong.get(key('a/1')).string());
  await root.user('ann').setPassword('new');
  const renewed = alone(members, 0, { auth: { username: 'ann', password: 'new' } });
  equal(await renewed.get(key('a/1')), '1');
});

check('tls/client-certificates', async members => {
  const secured = await ask('cluster mtls');
  const files = {
    rootCertificate: fs.readFileSync(secured.ca_file),
    certChain: fs.readFileSync(secured.cert_file),
    privateKey: fs.readFileSync(secured.key_file),
  };
  const cli = client(secured, { credentials: files });
  const events = await watch(cli.watch().key(key('a')));
  await cli.put(key('a')).value('1');
  equal(await events.told(1), ['Put a=1']);
  const bare = client(secured, { credentials: { rootCertificate: files.rootCertificate } });
  await assert.rejects(bare.get(key('a')).string());
});

// The leader dies.

check('failover/watch-lease-and-election-go-on', async members => {
  const cli = client(members);
  const start = (await put(cli, key('start'), '')) + 1;
  const events = new Events(await cli.watch().prefix(key('w/')).startRevision(String(start)).create());
  const lease = cli.lease(10);
  await lease.put(key('leased')).value('1');
  let lost = null;
  lease.on('lost', error => (lost = error));
  const campaign = cli.election(key('e'), 30).campaign('one');
  await campaign.wait();
  const writer = client(members);
  const acknowledged = [];
  let isStopped = false;
  const writing = (async () => {
    for (let i = 0; !isStopped; i++) {
      try {
        await writer.put(key(`w/${i}`)).value('v').options({ deadline: Date.now() + 2000 });
        acknowledged.push(String(i));
      } catch (error) {
        // What was not acknowledged may be there or not.
      }
    }
  })();
  const more = async () => {
    const target = acknowledged.length + 30;
    await eventually('more is written', () => acknowledged.length >= target);
  };
  await more();
  await ask('kill-leader');
  await more();
  await ask('restart');
  await more();
  isStopped = true;
  await writing;
  await eventually('a last write', async () => {
    try {
      return await cli.put(key('w/end')).value('');
    } catch (error) {
      return false;
    }
  });
  await eventually('its event', () => events.said[events.said.length - 1] === 'Put end=');
  const seen = events.responses.flatMap(response => response.events.map(event => event.kv));
  const revisions = seen.map(pair => Number(pair.mod_revision));
  ok(revisions.every((revision, i) => i === 0 || revision > revisions[i - 1]), 'each once, in order');
  const names = new Set(seen.map(pair => pair.key.toString()));
  equal(acknowledged.filter(name => !names.has(key(`w/${name}`))), []);
  const stored = await cli.getAll().prefix(key('w/')).keys();
  equal(stored.filter(name => !names.has(name)), []);
  equal([lost, await cli.get(key('leased'))], [null, '1']);
  equal(await cli.election(key('e')).leader(), 'one');
  await campaign.resign();
  await lease.revoke();
});
