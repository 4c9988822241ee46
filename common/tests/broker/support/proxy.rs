//! A TCP proxy in front of the broker that can hold back the broker's answers, cut connections and refuse new ones.

use std::sync::{Arc, Mutex};

use switchyard_common::guard::{GuardedTask, spawn_guarded};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    url: String,
}

struct Shared {
    target: String,
    /// While true, nothing passes from the broker to the client.
    holding: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    /// Everything the client has sent.
    seen: watch::Sender<Vec<u8>>,
    /// Ends the connections of now.
    cut: Mutex<CancellationToken>,
}

impl Proxy {
    /// A proxy in front of the broker at `url`.
    pub(crate) async fn start(url: &str) -> Self {
        let (credentials, place) = url.rsplit_once('@').expect("a URL with credentials");
        let (target, path) = place.split_once('/').expect("a URL with a vhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            holding: watch::channel(false).0,
            refusing: watch::channel(false).0,
            seen: watch::channel(Vec::new()).0,
            cut: Mutex::new(CancellationToken::new()),
        });
        spawn_guarded("proxy", accept(listener, Arc::clone(&shared)));
        Self { shared, url: format!("{credentials}@127.0.0.1:{port}/{path}") }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends all connections; new ones are accepted.
    pub(crate) fn cut(&self) {
        let old = std::mem::take(&mut *self.shared.cut.lock().unwrap());
        self.shared.holding.send_replace(false);
        old.cancel();
    }

    /// Keeps the broker's answers from the client until the next cut.
    pub(crate) fn hold_answers(&self) {
        self.shared.holding.send_replace(true);
    }

    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.refusing.send_replace(refuse);
    }

    /// Waits until the client has sent this text.
    pub(crate) async fn saw(&self, text: &str) {
        let mut seen = self.shared.seen.subscribe();
        let found = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        super::within(seen.wait_for(found)).await.unwrap();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *shared.refusing.borrow() {
            continue;
        }
        let Ok(broker) = TcpStream::connect(&shared.target).await else { continue };
        let cut = shared.cut.lock().unwrap().clone();
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        let _up: GuardedTask<()> =
            spawn_guarded("proxy-up", up(from_client, to_broker, Arc::clone(&shared), cut.clone()));
        let _down: GuardedTask<()> =
            spawn_guarded("proxy-down", down(from_broker, to_client, Arc::clone(&shared), cut));
    }
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>, cut: CancellationToken) {
    let mut buffer = vec![0; 64 * 1024];
    let copy = async {
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if to.write_all(&buffer[..count]).await.is_err() {
                break;
            }
            shared.seen.send_modify(|seen| seen.extend_from_slice(&buffer[..count]));
        }
    };
    tokio::select! { () = copy => cut.cancel(), () = cut.cancelled() => {} }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>, cut: CancellationToken) {
    let mut buffer = vec![0; 64 * 1024];
    let mut holding = shared.holding.subscribe();
    let copy = async {
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if holding.wait_for(|holding| !holding).await.is_err()
                || to.write_all(&buffer[..count]).await.is_err()
            {
                break;
            }
        }
    };
    tokio::select! { biased; () = cut.cancelled() => {}, () = copy => cut.cancel() }
}
