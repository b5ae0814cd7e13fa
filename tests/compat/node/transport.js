'use strict';
// The transport under gRPC from Node, by @grpc/grpc-js alone: octets in, octets out.

const assert = require('assert');
const grpc = require('@grpc/grpc-js');
const { check, cleanup, key } = require('./harness');

const { deepStrictEqual: equal, ok } = assert;
const same = octets => octets;

function channel(members, options = {}) {
  const address = members.endpoints[0].replace('http://', '');
  const made = new grpc.Client(address, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    ...options,
  });
  cleanup(() => made.close());
  return made;
}

/** A field of a message of protobuf that holds octets. */
function field(number, octets) {
  const content = Buffer.from(octets);
  const size = [];
  let rest = content.length;
  for (; rest > 127; rest >>= 7) {
    size.push((rest & 127) | 128);
  }
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...size, rest]), content]);
}

function call(client, path, request, options = {}) {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, same, same, request, new grpc.Metadata(), options, (error, answer) =>
      error ? reject(error) : resolve(answer));
  });
}

const put = (client, name, value, options) =>
  call(client, '/etcdserverpb.KV/Put', Buffer.concat([field(1, name), field(2, value)]), options);
const range = (client, name, options) => call(client, '/etcdserverpb.KV/Range', field(1, name), options);

async function code(promise) {
  const error = await promise.then(() => assert.fail('no error'), each => each);
  return grpc.status[error.code];
}

/** A lock that somebody holds: who asks for it waits. */
async function heldLock(client) {
  await call(client, '/v3lockpb.Lock/Lock', field(1, key('lock')));
  return field(1, key('lock'));
}

check('transport/ends-at-its-deadline', async members => {
  const client = channel(members);
  const lock = await heldLock(client);
  const waiting = call(client, '/v3lockpb.Lock/Lock', lock, { deadline: Date.now() + 200 });
  // Which of the two sides says so first is open; etcd then speaks of a cancelled call.
  ok(['DEADLINE_EXCEEDED', 'CANCELLED'].includes(await code(waiting)));
  await range(client, key('k'), { deadline: Date.now() + 30_000 });
});

check('transport/can-be-cancelled', async members => {
  const client = channel(members);
  const lock = await heldLock(client);
  let cancel;
  const waiting = new Promise((resolve, reject) => {
    const going = client.makeUnaryRequest('/v3lockpb.Lock/Lock', same, same, lock, error => reject(error));
    cancel = () => going.cancel();
  });
  await range(client, key('k'));
  cancel();
  equal(await code(waiting), 'CANCELLED');
  await range(client, key('k'));
});

check('transport/a-thousand-calls-at-once', async members => {
  const client = channel(members);
  await put(client, key('k'), 'v');
  const answers = await Promise.all(Array.from({ length: 1000 }, () => range(client, key('k'))));
  ok(answers.every(answer => answer.includes(Buffer.from(key('k')))));
});

check('transport/a-large-value-there-and-back', async members => {
  const client = channel(members);
  const value = Buffer.alloc(1_400_000, 'large');
  await put(client, key('k'), value);
  ok((await range(client, key('k'))).includes(value));
});

check('transport/compressed-messages', async members => {
  const client = channel(members, {
    'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip,
  });
  const value = Buffer.alloc(100_000, 'squeezed');
  await put(client, key('k'), value);
  ok((await range(client, key('k'))).includes(value));
});

check('transport/errors-with-any-character', async members => {
  const client = channel(members);
  const error = await call(client, '/etcdserverpb.KV/100%', Buffer.alloc(0)).catch(each => each);
  equal(grpc.status[error.code], 'UNIMPLEMENTED');
  equal(error.details, 'unknown method 100% for service etcdserverpb.KV');
});

check('transport/many-small-messages-and-their-end', async members => {
  const client = channel(members);
  const stream = client.makeBidiStreamRequest('/etcdserverpb.Lease/LeaseKeepAlive', same, same);
  let count = 0;
  stream.on('data', () => count++);
  const ended = new Promise((resolve, reject) => stream.on('status', resolve).on('error', reject));
  for (let i = 0; i < 500; i++) {
    stream.write(Buffer.from([8, 1]));
  }
  stream.end();
  equal(grpc.status[(await ended).code], 'OK');
  equal(count, 500);
});

check('transport/a-stream-given-up', async members => {
  const client = channel(members);
  const stream = client.makeBidiStreamRequest('/etcdserverpb.Watch/Watch', same, same);
  const failed = new Promise(resolve => stream.on('error', resolve));
  const told = new Promise(resolve => stream.once('data', resolve));
  stream.write(field(1, field(1, key('k'))));
  await told;
  stream.cancel();
  equal(grpc.status[(await failed).code], 'CANCELLED');
  await range(client, key('k'));
});
