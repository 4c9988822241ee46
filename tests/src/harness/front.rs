//! One way to a cluster: each connection goes to a node that accepts it, as the service of a Kubernetes cluster would do.

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use switchyard_common::guard::{spawn_guarded, spawn_thread_guarded};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::cut::host_of;

/// Passes connections on to the nodes by turns; a node that refuses is passed over. On a thread of its own: what clears up after a
/// test blocks the test's own.
#[derive(Debug)]
pub struct Front {
    /// The first node's URL by this way.
    pub url: String,
    /// The front ends when its sender is gone.
    _open: watch::Sender<()>,
}

impl Front {
    /// A way to the services of `urls`, which differ in host and port alone.
    ///
    /// # Errors
    /// When there is no URL, one names no port, or no port is free.
    pub fn new(urls: &[String]) -> anyhow::Result<Self> {
        let first = urls.first().context("a cluster has a node")?;
        let hosts: Vec<&str> = urls.iter().map(|url| host_of(url)).collect::<anyhow::Result<_>>()?;
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        listener.set_nonblocking(true)?;
        let url = first.replacen(hosts[0], &listener.local_addr()?.to_string(), 1);
        let targets = hosts.into_iter().map(str::to_owned).collect();
        let (open, mut opened) = watch::channel(());
        let running = spawn_thread_guarded("front", move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    ended = accept(listener, targets) => ended,
                    _ = opened.changed() => Ok(()),
                }
            })
        });
        drop(running.context("no thread for a front")?);
        Ok(Self { url, _open: open })
    }
}

async fn accept(listener: StdListener, targets: Vec<String>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (targets, next) = (Arc::new(targets), AtomicUsize::new(0));
    loop {
        let (client, _) = listener.accept().await?;
        let first = next.fetch_add(1, Ordering::Relaxed);
        drop(spawn_guarded("front-connection", pass_on(client, Arc::clone(&targets), first)));
    }
}

/// To the node whose turn it is, or the next that accepts. A client that finds none sees its connection closed.
async fn pass_on(mut client: TcpStream, targets: Arc<Vec<String>>, first: usize) {
    for turn in 0..targets.len() {
        if let Ok(mut node) = TcpStream::connect(&targets[(first + turn) % targets.len()]).await {
            // Which end was the first to break off does not matter: both are closed.
            let _ = copy_bidirectional(&mut client, &mut node).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_node_that_is_gone_is_passed_over() {
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let lives = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let urls = [&gone, &lives].map(|node| format!("amqp://u:p@{}/v", node.local_addr().unwrap()));
        drop(gone);
        let front = Front::new(&urls).unwrap();
        assert!(front.url.starts_with("amqp://u:p@127.0.0.1:") && front.url.ends_with("/v"), "{}", front.url);
        for _ in 0..2 {
            let mut client = TcpStream::connect(host_of(&front.url).unwrap()).await.unwrap();
            let (mut node, _) = lives.accept().await.unwrap();
            client.write_all(b"x").await.unwrap();
            assert_eq!(node.read_u8().await.unwrap(), b'x');
        }
    }
}
