"""Celery: quorum queue, publisher confirms, acks after the handler; with PEER_RESULTS a row per result in PostgreSQL."""

import os
import sys
import time

from celery import Celery

import probe

WORKERS = 2
PREFETCH_PER_WORKER = 32

app = Celery("peer", broker=os.environ["PEER_AMQP_URL"])
app.conf.update(
    task_default_queue="celery",
    task_default_queue_type="quorum",
    worker_detect_quorum_queues=True,
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    worker_prefetch_multiplier=PREFETCH_PER_WORKER,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
if os.environ.get("PEER_RESULTS"):
    app.conf.result_backend = "db+" + os.environ["PEER_DATABASE_URL"].replace("postgres://", "postgresql+psycopg2://")
else:
    app.conf.task_ignore_result = True


@app.task
def noop(workspace: str, sent_ns: int, padding: str) -> bool:
    probe.starts(sent_ns)
    return True


def publish() -> None:
    from flow import Flow

    flow = Flow()
    for number in flow.numbers():
        noop.delay(flow.workspace(number), time.time_ns(), flow.padding)


if __name__ == "__main__":
    # The module that workers import must be the one whose task is sent.
    import celery_app

    if sys.argv[1] == "publish":
        celery_app.publish()
    else:
        celery_app.app.worker_main(
            ["worker", f"--concurrency={WORKERS}", "--pool=prefork", "--loglevel=ERROR"]
            + ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        )
