"""procrastinate: jobs in PostgreSQL, a lock per workspace, so that one job of a workspace runs at a time, in order."""

import asyncio
import os
import sys
import time

from procrastinate import App, PsycopgConnector

import probe
from flow import Flow

CONCURRENCY = 8
# Connections that the publisher shares among the defers on their way.
PUBLISH_WINDOW = 8

app = App(connector=PsycopgConnector(conninfo=os.environ["PEER_DATABASE_URL"], max_size=PUBLISH_WINDOW + 2))


@app.task(name="noop")
async def noop(sent_ns: int, padding: str) -> None:
    probe.starts(sent_ns)


async def publish() -> None:
    flow = Flow()
    window = asyncio.Semaphore(PUBLISH_WINDOW)

    async def one(number: int) -> None:
        try:
            job = noop.configure(lock=flow.workspace(number))
            await job.defer_async(sent_ns=time.time_ns(), padding=flow.padding)
        finally:
            window.release()

    began = time.monotonic()
    async with app.open_async(), asyncio.TaskGroup() as group:
        for number in range(flow.count):
            if flow.per_second:
                await asyncio.sleep(max(0.0, began + number / flow.per_second - time.monotonic()))
            await window.acquire()
            group.create_task(one(number))


async def setup() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    async with app.open_async():
        await app.run_worker_async(concurrency=CONCURRENCY)


asyncio.run({"setup": setup, "work": work, "publish": publish}[sys.argv[1]]())
