// BullMQ: jobs in Redis, which writes its log to disk each second.
"use strict";

const { Queue, Worker } = require("bullmq");
const { starts, publish } = require("./probe.js");

const CONCURRENCY = 8;
const connection = { host: "127.0.0.1", port: Number(process.env.PEER_REDIS_PORT) };

async function main(verb) {
  if (verb === "work") {
    const noop = async (job) => starts(job.data.sentNs);
    const options = { connection, concurrency: CONCURRENCY, removeOnComplete: { count: 0 } };
    new Worker("peer", noop, options).on("error", (error) => console.error(error));
    return;
  }
  const queue = new Queue("peer", { connection });
  await publish((workspace, payload) => queue.add("noop", { workspace, ...payload }));
  await queue.close();
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
