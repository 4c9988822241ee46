//! A TCP proxy in front of the broker whose connections can be cut, or break by themselves after so many bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use switchyard_common::guard::spawn_guarded;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) struct Proxy {
    url: String,
    /// Ends the connections of now.
    cut: Arc<Mutex<CancellationToken>>,
    refusing: Arc<AtomicBool>,
    breaks: Arc<Mutex<VecDeque<Break>>>,
    /// Ends the connections that are to break and have not yet.
    whole: CancellationToken,
}

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// Closed when the client has sent more than so many bytes.
    CloseAfterBytes(usize),
    /// From then on nothing passes any more, and nobody is told.
    StallAfterBytes(usize),
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
        let breaks = Arc::<Mutex<VecDeque<Break>>>::default();
        let whole = CancellationToken::new();
        let ways = Ways {
            target: target.to_owned(),
            cut: Arc::clone(&cut),
            refusing: Arc::clone(&refusing),
            breaks: Arc::clone(&breaks),
            whole: whole.clone(),
        };
        spawn_guarded("proxy", accept(listener, ways));
        Self { url: format!("{credentials}@127.0.0.1:{port}/{path}"), cut, refusing, breaks, whole }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Whether new connections are closed at once.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::SeqCst);
    }

    /// The next connections break so, one each; those after them do not.
    pub(crate) fn break_next(&self, breaks: impl IntoIterator<Item = Break>) {
        self.breaks.lock().unwrap().extend(breaks);
    }

    /// How many of them have not been made yet.
    pub(crate) fn breaks_left(&self) -> usize {
        self.breaks.lock().unwrap().len()
    }

    /// From now on nothing breaks by itself: what was to break and has not yet is closed. What has gone silent stays so.
    pub(crate) fn break_no_more(&self) {
        self.breaks.lock().unwrap().clear();
        self.whole.cancel();
    }

    /// Ends all connections; new ones are accepted.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }
}

/// What the accepting task shares with the test.
struct Ways {
    target: String,
    cut: Arc<Mutex<CancellationToken>>,
    refusing: Arc<AtomicBool>,
    breaks: Arc<Mutex<VecDeque<Break>>>,
    whole: CancellationToken,
}

async fn accept(listener: TcpListener, ways: Ways) {
    while let Ok((client, _)) = listener.accept().await {
        if ways.refusing.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(broker) = TcpStream::connect(&ways.target).await else { continue };
        let cut = ways.cut.lock().unwrap().clone();
        let breaks = ways.breaks.lock().unwrap().pop_front();
        let whole = ways.whole.clone();
        spawn_guarded("proxy-connection", async move {
            tokio::select! {
                () = pass(client, broker, breaks, whole) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn pass(mut client: TcpStream, mut broker: TcpStream, breaks: Option<Break>, whole: CancellationToken) {
    let Some(breaks) = breaks else {
        let _ = copy_bidirectional(&mut client, &mut broker).await;
        return;
    };
    let (Break::CloseAfterBytes(limit) | Break::StallAfterBytes(limit)) = breaks;
    let (from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let limited = async {
        // One more than the limit, so that with 0 the client has begun to speak.
        let mut first = from_client.take(u64::try_from(limit).unwrap() + 1);
        let _ = tokio::io::copy(&mut first, &mut to_broker).await;
        let _ = to_broker.flush().await;
    };
    tokio::select! {
        () = limited => {}
        _ = tokio::io::copy(&mut from_broker, &mut to_client) => return,
        () = whole.cancelled() => return,
    }
    if let Break::StallAfterBytes(_) = breaks {
        std::future::pending::<()>().await;
    }
}
