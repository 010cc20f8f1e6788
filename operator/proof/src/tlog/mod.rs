//! The transparency log, as far as it is a function of bytes: what its leaves are.

pub mod entry;
