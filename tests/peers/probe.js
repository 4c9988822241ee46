// The probe of a measurement and the arguments of a publisher, see tests/src/bench/probe.rs and flow.py.
"use strict";

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");

const WINDOW = 8; // publishes on their way at most

function nowNs() {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e6));
}

let file;
function starts(sentNs) {
  file ??= fs.openSync(process.env.PEER_PROBE, "a");
  const sample = Buffer.alloc(16);
  sample.writeBigUInt64LE(BigInt(sentNs), 0);
  sample.writeBigUInt64LE(nowNs(), 8);
  fs.writeSync(file, sample);
}

// Calls `add(workspace, payload)` for every task of `publish COUNT PER_SECOND BYTES WORKSPACES`.
async function publish(add) {
  const [count, perSecond, size, workspaces] = process.argv.slice(3).map(Number);
  const padding = "x".repeat(Math.max(0, size - 80));
  const open = new Set();
  const began = performance.now();
  for (let number = 0; number < count; number++) {
    if (perSecond) await sleep(Math.max(0, began + (number / perSecond) * 1000 - performance.now()));
    if (open.size >= WINDOW) await Promise.race(open);
    const one = add(`ws-${number % workspaces}`, { sentNs: nowNs().toString(), padding });
    open.add(one);
    one.finally(() => open.delete(one));
  }
  await Promise.all(open);
}

module.exports = { starts, publish };
