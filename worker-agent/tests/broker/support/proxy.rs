//! A TCP proxy in front of the broker whose connections can be cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use switchyard_common::guard::spawn_guarded;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) struct Proxy {
    url: String,
    /// Ends the connections of now.
    cut: Arc<Mutex<CancellationToken>>,
    refusing: Arc<AtomicBool>,
}

impl Proxy {
    /// A proxy in front of the broker at `url`.
    pub(crate) async fn start(url: &str) -> Self {
        let (credentials, place) = url.rsplit_once('@').expect("a URL with credentials");
        let (target, path) = place.split_once('/').expect("a URL with a vhost");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let refusing = Arc::new(AtomicBool::new(false));
        spawn_guarded("proxy", accept(listener, target.to_owned(), Arc::clone(&cut), Arc::clone(&refusing)));
        Self { url: format!("{credentials}@127.0.0.1:{port}/{path}"), cut, refusing }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether new connections are closed at once.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::SeqCst);
    }

    /// Ends all connections; new ones are accepted.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    cut: Arc<Mutex<CancellationToken>>,
    refusing: Arc<AtomicBool>,
) {
    while let Ok((mut client, _)) = listener.accept().await {
        if refusing.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(mut broker) = TcpStream::connect(&target).await else { continue };
        let cut = cut.lock().unwrap().clone();
        spawn_guarded("proxy-connection", async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut broker) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
