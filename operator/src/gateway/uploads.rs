//! What is under way: how many uploads at once, of all callers and of one (on its way into a bucket each may hold some 40 MiB,
//! however slowly it comes; one caller's uploads take only its own share), and how many bytes against one quota.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::access::Refusal;
use crate::runtime::slots::{Slot, Slots};

/// Seconds after which a caller without a slot may ask again.
const RETRY_AFTER: u64 = 2;

/// Slots for uploads.
#[derive(Debug)]
pub struct Uploads(Arc<Slots>);

impl Uploads {
    /// So many in all, and so many of one caller.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self(Slots::new(all, each)))
    }

    /// A slot for one more upload of `caller`.
    ///
    /// # Errors
    /// 429.
    pub fn enter(&self, caller: &str) -> Result<Slot, Refusal> {
        self.0.enter(caller).ok_or_else(|| Refusal::too_many(RETRY_AFTER))
    }
}

/// Bytes under way, by whose quota they will count against: two uploads that come at once must see each other.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<HashMap<String, u64>>>);

/// Bytes of one upload; no longer under way when it is dropped.
#[derive(Debug)]
pub struct Room {
    all: UnderWay,
    whose: String,
    size: u64,
}

impl UnderWay {
    /// Adds an upload; also says how many bytes of the same quota are under way now, its own among them.
    pub fn add(&self, whose: &str, size: u64) -> (Room, u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = all.entry(whose.to_owned()).or_default();
        *sum = sum.saturating_add(size);
        (Room { all: self.clone(), whose: whose.to_owned(), size }, *sum)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = all.get_mut(&self.whose) {
            *sum = sum.saturating_sub(self.size);
            if *sum == 0 {
                all.remove(&self.whose);
            }
        }
    }
}
