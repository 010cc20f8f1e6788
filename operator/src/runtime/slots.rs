//! How many may do the same thing at once, in all and of one caller: nobody's slowness takes the others' room.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Slots {
    all: usize,
    each: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// A caller's; free again when it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    caller: String,
}

impl Slots {
    /// So many in all, and so many of one caller.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// One more slot for `caller`, if there is one.
    pub fn enter(self: &Arc<Self>, caller: &str) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (taken.values().sum::<usize>(), taken.get(caller).copied().unwrap_or(0));
        if all >= self.all || own >= self.each {
            return None;
        }
        taken.insert(caller.to_owned(), own + 1);
        Some(Slot { slots: self.clone(), caller: caller.to_owned() })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_takes_only_its_share_and_all_together_only_what_there_is() {
        let slots = Slots::new(3, 2);
        let first = slots.enter("east").unwrap();
        let _second = slots.enter("east").unwrap();
        assert!(slots.enter("east").is_none());
        let _west = slots.enter("west").unwrap();
        assert!(slots.enter("north").is_none(), "all are taken");
        drop(first);
        let _north = slots.enter("north").unwrap();
        assert_eq!(slots.taken.lock().unwrap().len(), 3);
    }
}
