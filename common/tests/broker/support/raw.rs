//! A publisher without a library, to send what no library would: properties that are not UTF-8, headers nested
//! thousands deep.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;

/// The flags of a content header.
pub(crate) const MESSAGE_ID: u16 = 1 << 7;
pub(crate) const HEADERS: u16 = 1 << 13;

/// Publishes one message to a queue with properties given as bytes, and waits until the broker has it.
pub(crate) async fn publish(url: &str, queue: &str, flags: u16, properties: &[u8]) {
    let (credentials, place) = url.split_once("://").unwrap().1.rsplit_once('@').unwrap();
    let (address, vhost) = place.split_once('/').unwrap();
    let vhost =
        vhost.split_once('?').map_or(vhost, |(vhost, _)| vhost).replace("%2f", "/").replace("%2F", "/");
    let (user, password) = credentials.split_once(':').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    answer(&mut stream).await;
    let login = [&b"\0"[..], user.as_bytes(), b"\0", password.as_bytes()].concat();
    let start_ok = [&block(b"")[..], &short(b"PLAIN"), &block(&login), &short(b"en_US")].concat();
    send(&mut stream, 0, 10, 11, &start_ok).await;
    answer(&mut stream).await;
    // At most 2047 channels, frames of 128 KiB, no heartbeat.
    send(&mut stream, 0, 10, 31, &[0x07, 0xff, 0, 2, 0, 0, 0, 0]).await;
    send(&mut stream, 0, 10, 40, &[&short(vhost.as_bytes())[..], &short(b""), b"\0"].concat()).await;
    answer(&mut stream).await;
    send(&mut stream, 1, 20, 10, &short(b"")).await;
    answer(&mut stream).await;
    send(&mut stream, 1, 85, 10, b"\0").await;
    answer(&mut stream).await;

    send(&mut stream, 1, 60, 40, &[&[0, 0][..], &short(b""), &short(queue.as_bytes()), b"\0"].concat()).await;
    let size_of_body = 4_u64.to_be_bytes();
    let header = [&[0, 60, 0, 0][..], &size_of_body, &flags.to_be_bytes(), properties].concat();
    frame(&mut stream, CONTENT_HEADER, 1, &header).await;
    frame(&mut stream, BODY, 1, b"body").await;
    let confirm = answer(&mut stream).await;
    assert_eq!(confirm[..4], [0, 60, 0, 80], "the broker acks the message: {confirm:?}");
}

/// A header `x` with lists inside each other.
pub(crate) fn nested_headers(depth: usize) -> Vec<u8> {
    let mut value = vec![b'V'];
    for _ in 0..depth {
        value = [&b"A"[..], &block(&value)].concat();
    }
    block(&[short(b"x"), value].concat())
}

pub(crate) fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text].concat()
}

fn block(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

async fn send(stream: &mut TcpStream, channel: u16, class: u16, method: u16, arguments: &[u8]) {
    let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
    frame(stream, METHOD, channel, &payload).await;
}

async fn frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) {
    let bytes = [&[kind][..], &channel.to_be_bytes(), &block(payload), &[0xce]].concat();
    stream.write_all(&bytes).await.unwrap();
}

/// The payload of the broker's next frame.
async fn answer(stream: &mut TcpStream) -> Vec<u8> {
    super::within(async {
        let mut head = [0; 7];
        stream.read_exact(&mut head).await.expect("the broker closed the connection");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(size).unwrap() + 1];
        stream.read_exact(&mut payload).await.unwrap();
        payload
    })
    .await
}
