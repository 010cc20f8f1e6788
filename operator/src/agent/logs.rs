//! A worker's log at the member. A trait, so that what is done with it can be tested without a cluster.
use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncReadExt};
use futures::stream::{self, BoxStream, StreamExt};

use super::member::MemberError;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// The bytes of a log as they come.
pub type Log = BoxStream<'static, std::io::Result<Bytes>>;

/// What of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// Go on as long as the worker writes.
    pub follow: bool,
    /// Begin so many lines before the end.
    pub tail_lines: Option<u32>,
    /// End after about so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Reads logs.
pub trait WorkerLogs: Send + Sync + 'static {
    /// The log of a unit's worker in its newest attempt, whichever of its names that was made under; `None` if it has no
    /// container yet or any more.
    fn of_worker<'a>(
        &'a self,
        names: &'a [&'a str],
        rank: u32,
        part: Part,
    ) -> BoxFuture<'a, Result<Option<Log>, MemberError>>;

    /// The log of a pod, by name.
    fn of_pod<'a>(&'a self, pod: &'a str, part: Part) -> BoxFuture<'a, Result<Option<Log>, MemberError>>;
}

/// Pieces of a reader.
pub(super) fn pieces(reader: impl AsyncRead + Send + 'static) -> Log {
    stream::try_unfold(Box::pin(reader), |mut reader| async move {
        let mut piece = vec![0; PIECE];
        let read = reader.read(&mut piece).await?;
        piece.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(piece), reader)))
    })
    .boxed()
}

/// The last `max` bytes of a log.
///
/// # Errors
/// Any error of the log.
pub(super) async fn tail(mut log: Log, max: usize) -> std::io::Result<Vec<u8>> {
    let mut end: Vec<u8> = Vec::new();
    while let Some(piece) = log.next().await {
        end.extend_from_slice(&piece?);
        // Now and then, not for each piece.
        if end.len() > 4 * max {
            end.drain(..end.len() - max);
        }
    }
    end.drain(..end.len().saturating_sub(max));
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tail_is_the_end_whatever_the_pieces_are() {
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let log = pieces(futures::io::Cursor::new(bytes.clone()));
        assert_eq!(tail(log, 1000).await.unwrap(), bytes[bytes.len() - 1000..]);
        let log = pieces(futures::io::Cursor::new(b"short".to_vec()));
        assert_eq!(tail(log, 1000).await.unwrap(), b"short");
    }
}
