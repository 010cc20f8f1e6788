//! What is under way: how many uploads at once, of all callers and of one (on its way into a bucket each may hold some 40 MiB,
//! however slowly it comes; one caller's uploads take only its own share), and how many bytes against one quota.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::access::Refusal;

/// Seconds after which a caller without a slot may ask again.
const RETRY_AFTER: u64 = 2;

/// Slots for uploads.
#[derive(Debug)]
pub struct Uploads {
    all: usize,
    each: usize,
    running: Mutex<HashMap<String, usize>>,
}

/// One upload's; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    uploads: Arc<Uploads>,
    caller: String,
}

impl Uploads {
    /// So many in all, and so many of one caller.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, running: Mutex::default() })
    }

    /// A slot for one more upload of `caller`.
    ///
    /// # Errors
    /// 429.
    pub fn enter(self: &Arc<Self>, caller: &str) -> Result<Slot, Refusal> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (running.values().sum::<usize>(), running.get(caller).copied().unwrap_or(0));
        if all >= self.all || own >= self.each {
            return Err(Refusal::too_many(RETRY_AFTER));
        }
        running.insert(caller.to_owned(), own + 1);
        Ok(Slot { uploads: self.clone(), caller: caller.to_owned() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut running = self.uploads.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = running.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                running.remove(&self.caller);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_takes_only_its_share_and_all_together_only_what_there_is() {
        let uploads = Uploads::new(3, 2);
        let first = uploads.enter("east").unwrap();
        let _second = uploads.enter("east").unwrap();
        assert_eq!(uploads.enter("east").unwrap_err().status, 429);
        let _west = uploads.enter("west").unwrap();
        assert_eq!(uploads.enter("north").unwrap_err().retry_after, Some(RETRY_AFTER), "all are taken");
        drop(first);
        let _north = uploads.enter("north").unwrap();
        assert_eq!(uploads.running.lock().unwrap().len(), 3);
    }
}
