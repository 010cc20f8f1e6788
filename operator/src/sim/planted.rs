//! Mistakes that are made on purpose: `planted!("name")` is true where one is switched on, and a simulation that does not notice
//! it proves nothing.
use std::sync::{PoisonError, RwLock};

static PLANTED: RwLock<Option<&'static str>> = RwLock::new(None);

/// Whether this one is made now.
pub fn is(name: &str) -> bool {
    *PLANTED.read().unwrap_or_else(PoisonError::into_inner) == Some(name)
}

/// Makes this one from now on, and no other.
pub fn switch(name: Option<&'static str>) {
    *PLANTED.write().unwrap_or_else(PoisonError::into_inner) = name;
}
