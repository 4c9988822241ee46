// graphile-worker: jobs in PostgreSQL, a queue per workspace, so that one job of a workspace runs at a time, in order.
"use strict";

const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { starts, publish } = require("./probe.js");

const CONCURRENCY = 8;
const connectionString = process.env.PEER_DATABASE_URL;
const logger = new Logger(() => () => {});

async function main(verb) {
  if (verb === "work") {
    const noop = (payload) => starts(payload.sentNs);
    const runner = await run({ connectionString, logger, concurrency: CONCURRENCY, taskList: { noop } });
    return runner.promise;
  }
  const utils = await makeWorkerUtils({ connectionString, logger });
  if (verb === "setup") await utils.migrate();
  else await publish((workspace, payload) => utils.addJob("noop", payload, { queueName: workspace }));
  return utils.release();
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
