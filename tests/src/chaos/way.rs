//! The way of one program to one service, through a proxy that cuts, holds and delays. Before several nodes it takes the first that
//! takes the connection, as a service's name does in a cluster.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use switchyard_common::guard::spawn_guarded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::fault::How;
use crate::harness::cut::host_of;

/// What passes at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// How late everything is on a slow way.
const SLOW: Duration = Duration::from_millis(150);
/// Longest wait for a node to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The state of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    up: bool,
    asks: Flow,
    answers: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Passes,
    Late,
    Held,
}

const OPEN: Rule = Rule { up: true, asks: Flow::Passes, answers: Flow::Passes };

/// A way. It ends with this value.
#[derive(Debug)]
pub struct Way {
    /// The service's URL by this way.
    pub url: String,
    rule: watch::Sender<Rule>,
}

impl Way {
    /// A way to the services of `urls`, which differ in host and port alone.
    ///
    /// # Errors
    /// When a URL names no port, or none is free.
    pub async fn new(urls: &[String]) -> anyhow::Result<Self> {
        let first = urls.first().context("a way to nowhere")?;
        let targets: Vec<String> =
            urls.iter().map(|url| Ok(host_of(url)?.to_owned())).collect::<anyhow::Result<_>>()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let url = first.replacen(host_of(first)?, &listener.local_addr()?.to_string(), 1);
        let (rule, watched) = watch::channel(OPEN);
        drop(spawn_guarded("way", accept(listener, targets.into(), watched)));
        Ok(Self { url, rule })
    }

    /// Disturbs it.
    pub fn disturb(&self, how: How) {
        let rule = match how {
            How::Cut => Rule { up: false, ..OPEN },
            How::Silent => Rule { asks: Flow::Held, answers: Flow::Held, ..OPEN },
            How::Deaf => Rule { answers: Flow::Held, ..OPEN },
            How::Mute => Rule { asks: Flow::Held, ..OPEN },
            How::Slow => Rule { asks: Flow::Late, answers: Flow::Late, ..OPEN },
        };
        self.rule.send_replace(rule);
    }

    /// Passes on again, what was held first.
    pub fn heal(&self) {
        self.rule.send_replace(OPEN);
    }
}

async fn accept(listener: TcpListener, targets: Arc<[String]>, rule: watch::Receiver<Rule>) {
    let mut first = 0;
    let mut ended = rule.clone();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            // The way is gone.
            _ = ended.wait_for(|_| false) => return,
        };
        let Ok((client, _)) = client else { return };
        if rule.borrow().up {
            drop(spawn_guarded("way-connection", pass_on(client, Arc::clone(&targets), first, rule.clone())));
        }
        first += 1;
    }
}

async fn pass_on(client: TcpStream, targets: Arc<[String]>, first: usize, mut rule: watch::Receiver<Rule>) {
    let Some(service) = reach(&targets, first).await else { return };
    // Frames are small and awaited: held back by the sender, each would take 40 ms.
    let _only_slower = (client.set_nodelay(true), service.set_nodelay(true));
    let ((asks, heard), (answers, asked)) = (client.into_split(), service.into_split());
    tokio::select! {
        () = pump(asks, asked, rule.clone(), |rule| rule.asks) => {}
        () = pump(answers, heard, rule.clone(), |rule| rule.answers) => {}
        _ = rule.wait_for(|rule| !rule.up) => {}
    }
}

/// Each connection begins at another node, so that a node that takes connections and answers nobody is not met every time.
async fn reach(targets: &[String], first: usize) -> Option<TcpStream> {
    for turn in 0..targets.len() {
        let target = &targets[(first + turn) % targets.len()];
        if let Ok(Ok(service)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(target)).await {
            return Some(service);
        }
    }
    None
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rule: watch::Receiver<Rule>,
    flow: fn(&Rule) -> Flow,
) {
    let mut bytes = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let Ok(now) = rule.wait_for(|rule| flow(rule) != Flow::Held).await.map(|rule| flow(&rule)) else {
            return;
        };
        if now == Flow::Late {
            tokio::time::sleep(SLOW).await;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest wait for bytes that come.
    const WITHIN: Duration = Duration::from_secs(20);

    /// A service that sends back what it hears.
    async fn echo() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("echo://{}", listener.local_addr().unwrap());
        drop(spawn_guarded("echo", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(spawn_guarded("echo-one", async move {
                    let (mut from, mut to) = stream.split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                }));
            }
        }));
        url
    }

    async fn connect(way: &Way) -> TcpStream {
        TcpStream::connect(&way.url["echo://".len()..]).await.unwrap()
    }

    async fn heard(stream: &mut TcpStream) -> Option<u8> {
        tokio::time::timeout(WITHIN, stream.read_u8()).await.unwrap().ok()
    }

    #[tokio::test]
    async fn what_is_held_passes_when_the_way_is_healed_and_a_cut_closes() {
        let nobody = "echo://127.0.0.1:1".to_owned();
        let way = Way::new(&[nobody, echo().await]).await.unwrap();
        let mut stream = connect(&way).await;
        for how in [How::Slow, How::Silent, How::Deaf, How::Mute] {
            way.disturb(how);
            stream.write_u8(7).await.unwrap();
            if how != How::Slow {
                let early = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
                assert!(early.is_err(), "{how:?} lets an answer pass");
                way.heal();
            }
            assert_eq!(heard(&mut stream).await, Some(7), "{how:?}");
        }
        way.disturb(How::Cut);
        assert_eq!(heard(&mut stream).await, None);
        way.heal();
        let mut again = connect(&way).await;
        again.write_u8(9).await.unwrap();
        assert_eq!(heard(&mut again).await, Some(9));
    }
}
