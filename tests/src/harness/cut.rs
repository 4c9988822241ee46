//! A way to a service that can be cut: what a program sees when its broker or database goes away and comes back.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use switchyard_common::guard::spawn_guarded;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes everything on while it is up; closes every connection while it is down.
pub struct Cut {
    /// The service's URL by this way.
    pub url: String,
    up: watch::Sender<bool>,
}

impl Cut {
    /// A way to the service of `url`, which names its host and port.
    ///
    /// # Errors
    /// When the URL has no port, or no port is free.
    pub async fn new(url: &str) -> anyhow::Result<Self> {
        let from = url.rfind('@').map_or_else(|| url.find("://").map_or(0, |at| at + 3), |at| at + 1);
        let to = url[from..].find(['/', '?']).map_or(url.len(), |at| from + at);
        let target = url[from..to].to_owned();
        anyhow::ensure!(target.contains(':'), "the URL names no port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let url = format!("{}{}{}", &url[..from], listener.local_addr()?, &url[to..]);
        let (up, state) = watch::channel(true);
        drop(spawn_guarded("cut", accept(listener, target, state)));
        Ok(Self { url, up })
    }

    /// Closes every connection, and each new one at once.
    pub fn down(&self) {
        self.up.send_replace(false);
    }

    /// Passes on again.
    pub fn up(&self) {
        self.up.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: String, state: watch::Receiver<bool>) {
    // Ends with the test: its sender is gone then.
    while state.has_changed().is_ok() {
        let Ok((client, _)) = listener.accept().await else { return };
        if *state.borrow() {
            drop(spawn_guarded("cut-connection", pass_on(client, target.clone(), state.clone())));
        }
    }
}

async fn pass_on(mut client: TcpStream, target: String, mut state: watch::Receiver<bool>) {
    let Ok(mut service) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut service) => {}
        _ = state.wait_for(|up| !up) => {}
    }
}
