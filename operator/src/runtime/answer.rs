//! What another process answers over HTTP, when it is no success or no answer at all: for whoever makes an error of it.
//! Text by the other end is sanitised, and nothing of it grows without bound.
use std::error::Error;
use std::time::Duration;

use reqwest::{Response, header};

use super::sanitise;
use crate::wire::gateway::Refused;

/// Nobody sends us away for longer, whatever he says.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// A CamelCase word; empty if it gave none.
    pub reason: String,
    /// For people; sanitised.
    pub message: String,
    /// When it may be tried again; capped.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// What it says; one of more than `max` bytes says nothing but its status.
    pub async fn read(answer: Response, max: usize) -> Self {
        let status = answer.status().as_u16();
        let seconds =
            answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        let body = capped(answer, max).await.unwrap_or_default();
        let (reason, message) = match serde_json::from_slice::<Refused>(&body) {
            Ok(refused) => (refused.reason, refused.message),
            Err(_) => (String::new(), String::from_utf8_lossy(&body).into_owned()),
        };
        let reason = reason.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        Self { status, reason, message: sanitise::line(&message, 400), retry_after }
    }
}

/// Whether waiting may help after this status: too many asked, or something behind the other end is down.
#[must_use]
pub fn is_transient(status: u16) -> bool {
    status == 429 || status == 408 || status >= 500
}

/// A whole body of at most `max` bytes.
///
/// # Errors
/// Why there is none, for people.
pub async fn capped(mut answer: Response, max: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(unreachable)? {
        if bytes.len() + piece.len() > max {
            return Err(format!("its answer is longer than {max} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Why nothing was reached, for people: reqwest's own text stops at "error sending request", and the cause is what is needed.
#[must_use]
pub fn unreachable(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    sanitise::line(&text, 400)
}
