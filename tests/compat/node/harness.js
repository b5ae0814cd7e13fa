'use strict';
// How this program is told what to check, and says what it found.
//
// The first line of input names the members; the arguments name the checks, in order ("list" prints
// the names of all).  The answer to each is a line "PASS name" or "FAIL name: why".  What only the
// one who runs the members can do is asked for by a line "ASK {...}", answered by a line of input.

const assert = require('assert');
const path = require('path');
const readline = require('readline');

const CHECK_TIMEOUT_MS = 60_000;
const CLEANUP_TIMEOUT_MS = 5_000;

const checks = new Map();
const input = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let current = '';
let cleanups = [];

function check(name, run) {
  checks.set(name, run);
}

async function line() {
  const { value, done } = await input.next();
  if (done) {
    throw new Error('no answer');
  }
  return JSON.parse(value);
}

/** A key that no other check uses; so is everything that begins with key(''). */
function key(suffix = '') {
  return `${current}/${suffix}`;
}

/** Have something done to the members. */
async function ask(what) {
  console.log(`ASK ${JSON.stringify({ do: what })}`);
  const reply = await line();
  assert(!reply.error, `${what}: ${reply.error}`);
  return reply.answer;
}

/** Called when the check has ended, the last one first. */
function cleanup(action) {
  cleanups.push(action);
}

function pause() {
  return new Promise(resolve => setTimeout(resolve, 50));
}

/** Wait until the claim holds; the check's own time is the limit. */
async function eventually(what, claim) {
  while (!(await claim())) {
    await pause();
  }
}

/** The action is refused by an error of this class whose message ends so. */
async function refused(what, kind, text, action) {
  let result;
  try {
    result = await action();
  } catch (error) {
    assert.strictEqual(error.constructor, kind, `${what}: ${error.constructor.name} (${error.message})`);
    assert(error.message.endsWith(text), `${what}: "${error.message}", not "${text}"`);
    return;
  }
  assert.fail(`${what}: not refused, but ${JSON.stringify(result)}`);
}

async function cleanUp(name) {
  for (const action of cleanups.reverse()) {
    try {
      await action();
    } catch (error) {
      console.error(`cleaning up after ${name}:`, error);
    }
  }
}

async function outcome(name, members) {
  current = name;
  cleanups = [];
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('the time is up')), CHECK_TIMEOUT_MS);
  });
  try {
    await Promise.race([checks.get(name)(members), late]);
    return '';
  } catch (error) {
    const own = String(error.stack).match(/\(?([^\s(]*checks\.js:\d+)/);
    const where = own ? `${path.basename(own[1])}: ` : '';
    return `${where}${error.constructor.name}: ${error.message}`.replaceAll('\n', ' | ');
  } finally {
    clearTimeout(timer);
    // A client that hangs must not keep the others from being checked.
    await Promise.race([cleanUp(name), new Promise(resolve => setTimeout(resolve, CLEANUP_TIMEOUT_MS).unref())]);
  }
}

async function main() {
  const names = process.argv.slice(2);
  if (names.length === 1 && names[0] === 'list') {
    console.log([...checks.keys()].join('\n'));
    return;
  }
  const members = await line();
  for (const name of names.length ? names : checks.keys()) {
    const why = await outcome(name, members);
    console.log(why ? `FAIL ${name}: ${why}` : `PASS ${name}`);
  }
}

module.exports = { ask, check, cleanup, eventually, key, main, pause, refused };
