//! What the hub does about audits: the book of what they have come to.
pub mod book;
