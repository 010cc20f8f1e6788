//! What the routes for agents and users share: digests in paths, bodies with a length, and what the store's errors mean to
//! the caller.
use std::io;

use axum::http::{HeaderMap, StatusCode, header};
use muster_proof::Digest;

use super::access::Refusal;
use crate::runtime::blobdir::PutError;

/// What is read of an upload that was refused, so that a sender who does not listen meanwhile gets the answer.
pub const DRAIN: u64 = 8 << 20;

/// The digest at the end of a path.
pub fn digest(hex: &str) -> Result<Digest, Refusal> {
    let wrong = "the path ends with 64 lower-case hex digits, the blob's SHA-256";
    Digest::from_hex(hex).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "BadDigest", wrong))
}

/// How long the body will be. Space is given out before the first byte, so a sender must say.
pub fn content_length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        let text = "an upload needs Content-Length; send the blob's size";
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, "LengthRequired", text));
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "BadLength", "Content-Length is not a number of bytes")
    })
}

/// No such blob, or not for this caller: one answer for both.
pub fn no_blob(digest: &Digest, whose: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "BlobNotFound", format!("{whose} has no blob {digest}"))
}

/// The store did not do what it was asked. Its own words are for the log: they name machines and paths.
pub fn store_refusal(error: &io::Error) -> Refusal {
    tracing::warn!(%error, "store");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(),
        _ => Refusal::unavailable("the hub's store cannot be asked now; try again"),
    }
}

/// An upload did not become a blob.
pub fn put_refusal(error: &PutError) -> Refusal {
    match error {
        PutError::Digest(got) => {
            let text = format!(
                "these bytes are {got}, not the blob named in the path; read the file and send it again"
            );
            Refusal::new(StatusCode::BAD_REQUEST, "DigestMismatch", text)
        }
        PutError::Source(_) => {
            let text = "the body ended before its Content-Length; send it again";
            Refusal::new(StatusCode::BAD_REQUEST, "BodyCutOff", text)
        }
        PutError::TooLarge(max) => too_large(*max),
        PutError::Full => full(),
        PutError::Io(error) => store_refusal(error),
    }
}

/// 413.
pub fn too_large(max: u64) -> Refusal {
    let text = format!("a blob has at most {max} bytes here");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", text)
}

fn full() -> Refusal {
    let text = "the hub's store is full; its admin must make room, then try again";
    Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "StoreFull", text)
}
