//! LISTEN on a connection of its own: wake-ups of other processes (the command line).

use std::task::Poll;

use futures::StreamExt;
use tokio_postgres::AsyncMessage;

use super::db::Db;
use super::error::StoreError;

/// Listens on `channel` and hands every payload to `hear`, until the connection fails.
///
/// # Errors
/// Always at the end: the connection was refused or failed. The caller comes back after a wait.
pub async fn listen(db: &Db, channel: &str, mut hear: impl FnMut(&str)) -> Result<(), StoreError> {
    let (client, mut connection) = db.connect_alone().await?;
    let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
    let sql = format!("LISTEN {channel}");
    let mut listening = std::pin::pin!(client.batch_execute(&sql));
    let mut started = false;
    // The statement makes progress only while the connection is polled.
    let mut next = std::pin::pin!(futures::stream::poll_fn(|context| {
        if !started && let Poll::Ready(result) = listening.as_mut().poll(context) {
            started = true;
            if let Err(error) = result {
                return Poll::Ready(Some(Err(error)));
            }
        }
        messages.poll_next_unpin(context)
    }));
    loop {
        match next.next().await {
            Some(Ok(AsyncMessage::Notification(notification))) => hear(notification.payload()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(StoreError::Transient("the listening connection has ended".into())),
        }
    }
}
