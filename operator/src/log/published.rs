//! What readers see: the heads that were published, and which record has which index. Nothing is here before it is durable.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proof::Digest;
use tokio::sync::watch;

/// Heads that a witness may still cosign. With a head every 5 ms these are 20 s.
const HEADS: usize = 4096;

/// A head that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Entries under it.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
    /// The signed note.
    pub note: Arc<str>,
}

#[derive(Debug, Default)]
struct View {
    heads: VecDeque<Head>,
    index: HashMap<Digest, u64>,
}

/// Shared by the writer, who adds, and everybody who reads.
#[derive(Debug, Default)]
pub struct Published {
    view: RwLock<View>,
    /// Why nothing is appended any more.
    stopped: watch::Sender<Option<String>>,
}

impl Published {
    /// A new head, and the records that it has beyond the one before.
    pub fn publish(&self, head: Head, records: impl IntoIterator<Item = (Digest, u64)>) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.index.extend(records);
        if view.heads.len() == HEADS {
            view.heads.pop_front();
        }
        view.heads.push_back(head);
    }

    /// The newest head; none before the log has read itself.
    #[must_use]
    pub fn newest(&self) -> Option<Head> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).heads.back().cloned()
    }

    /// How many entries the newest head has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.newest().map_or(0, |head| head.size)
    }

    /// One of the last heads, by its size.
    #[must_use]
    pub fn head(&self, size: u64) -> Option<Head> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        let at = view.heads.binary_search_by_key(&size, |head| head.size).ok()?;
        view.heads.get(at).cloned()
    }

    /// A record's index, if a published head has it.
    #[must_use]
    pub fn index(&self, record: &Digest) -> Option<u64> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).index.get(record).copied()
    }

    /// From now on nothing is appended.
    pub fn stop(&self, why: String) {
        self.stopped.send_modify(|stopped| {
            stopped.get_or_insert(why);
        });
    }

    /// Why nothing is appended, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }

    /// Waits until nothing is appended any more, and says why.
    pub async fn until_stopped(&self) -> String {
        let mut stopped = self.stopped.subscribe();
        loop {
            if let Some(why) = stopped.borrow_and_update().clone() {
                return why;
            }
            // The sender is of `self`.
            let _ = stopped.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_heads_are_found_by_their_size() {
        let published = Published::default();
        assert_eq!((published.size(), published.newest()), (0, None));
        let head = |size| Head { size, root: Digest::of(b"x"), note: "n\n".into() };
        for size in 0..10_000_u64 {
            published.publish(head(size * 3), [(Digest::of(&size.to_le_bytes()), size)]);
        }
        assert_eq!(published.size(), 29_997);
        assert_eq!(published.head(29_994), Some(head(29_994)));
        assert_eq!(published.head(29_995), None);
        assert_eq!(published.head(0), None, "too old");
        assert_eq!(published.index(&Digest::of(&7_u64.to_le_bytes())), Some(7));
        published.stop("first".into());
        published.stop("second".into());
        assert_eq!(published.stopped().as_deref(), Some("first"));
    }
}
