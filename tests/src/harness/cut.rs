//! A way to a service that can be cut: what a program sees when its broker or database goes away and comes back.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use switchyard_common::guard::spawn_guarded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes everything on while it is up; closes every connection while it is down.
pub struct Cut {
    /// The service's URL by this way.
    pub url: String,
    up: watch::Sender<bool>,
    holding: watch::Sender<bool>,
}

impl Cut {
    /// A way to the service of `url`, which names its host and port.
    ///
    /// # Errors
    /// When the URL has no port, or no port is free.
    pub async fn new(url: &str) -> anyhow::Result<Self> {
        let target = host_of(url)?.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let url = url.replacen(&target, &listener.local_addr()?.to_string(), 1);
        let (up, state) = watch::channel(true);
        let (holding, held) = watch::channel(false);
        drop(spawn_guarded("cut", accept(listener, target, state, held)));
        Ok(Self { url, up, holding })
    }

    /// Closes every connection, and each new one at once.
    pub fn down(&self) {
        self.up.send_replace(false);
    }

    /// Keeps the service's answers from the program, on connections that stay up, until told otherwise.
    pub fn hold_answers(&self, hold: bool) {
        self.holding.send_replace(hold);
    }

    /// Passes on again.
    pub fn up(&self) {
        self.up.send_replace(true);
    }
}

/// Host and port of a URL.
pub(crate) fn host_of(url: &str) -> anyhow::Result<&str> {
    let from = url.rfind('@').map_or_else(|| url.find("://").map_or(0, |at| at + 3), |at| at + 1);
    let to = url[from..].find(['/', '?']).map_or(url.len(), |at| from + at);
    anyhow::ensure!(url[from..to].contains(':'), "the URL names no port");
    Ok(&url[from..to])
}

async fn accept(
    listener: TcpListener,
    target: String,
    state: watch::Receiver<bool>,
    held: watch::Receiver<bool>,
) {
    // Ends with the test: its sender is gone then.
    while state.has_changed().is_ok() {
        let Ok((client, _)) = listener.accept().await else { return };
        if *state.borrow() {
            let passing = pass_on(client, target.clone(), state.clone(), held.clone());
            drop(spawn_guarded("cut-connection", passing));
        }
    }
}

async fn pass_on(
    client: TcpStream,
    target: String,
    mut state: watch::Receiver<bool>,
    held: watch::Receiver<bool>,
) {
    let Ok(service) = TcpStream::connect(target).await else { return };
    let ((mut said, heard), (answers, mut asked)) = (client.into_split(), service.into_split());
    tokio::select! {
        _ = copy(&mut said, &mut asked) => {}
        () = answer(answers, heard, held) => {}
        _ = state.wait_for(|up| !up) => {}
    }
}

async fn answer(mut answers: OwnedReadHalf, mut heard: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = answers.read(&mut bytes).await {
        if held.wait_for(|held| !held).await.is_err() || heard.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
