"""Dramatiq: its classic durable queue, publisher confirms, acks after the handler."""

import os
import sys
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

import probe

broker = RabbitmqBroker(url=os.environ["PEER_AMQP_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def noop(workspace: str, sent_ns: int, padding: str) -> None:
    probe.starts(sent_ns)


def publish() -> None:
    from flow import Flow

    flow = Flow()
    for number in flow.numbers():
        noop.send(flow.workspace(number), time.time_ns(), flow.padding)


if __name__ == "__main__" and sys.argv[1] == "publish":
    import dramatiq_app

    dramatiq_app.publish()
