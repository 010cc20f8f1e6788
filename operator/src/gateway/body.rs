//! Bodies that end when they should: cut when their caller is no longer accepted, counted, and holding what is to be given back
//! at their end. And the reading of small JSON bodies.
use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::access::Refusal;
use crate::runtime::sanitise::line;

/// No JSON body is longer (docs/spec/gateway.md).
pub const MAX_JSON: usize = 1 << 20;
/// A small body is here within this time.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The caller's key is no longer accepted.
#[derive(Debug, thiserror::Error)]
#[error("cut off: the key is no longer accepted")]
pub struct Cut;

/// A body with conditions.
pub struct Guarded {
    inner: Body,
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    bytes: Option<Counter>,
    held: Vec<Box<dyn Any + Send>>,
}

impl Guarded {
    /// Without any yet.
    pub fn new(inner: Body) -> Self {
        Self { inner, cut: None, bytes: None, held: Vec::new() }
    }

    /// Ends with an error when `token` falls.
    pub fn until(self, token: CancellationToken) -> Self {
        Self { cut: Some(Box::pin(token.cancelled_owned())), ..self }
    }

    /// Counts its bytes.
    pub fn counted(self, bytes: Counter) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Drops `what` when it has ended.
    pub fn holding(mut self, what: impl Any + Send) -> Self {
        self.held.push(Box::new(what));
        self
    }

    /// As an axum body.
    pub fn body(self) -> Body {
        Body::new(self)
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            // Not polled again after it was ready, and what is held is given back at once.
            (self.cut, self.inner) = (None, Body::empty());
            self.held.clear();
            return Poll::Ready(Some(Err(Cut.into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(bytes), Some(data)) = (&self.bytes, frame.data_ref()) {
                    bytes.inc_by(data.len() as u64);
                }
            }
            Some(Err(_)) | None => self.held.clear(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The whole body, if it is no longer than `max`.
///
/// # Errors
/// 400, 413, and 408 if it does not come.
pub async fn whole(body: Body, max: usize) -> Result<Bytes, Refusal> {
    let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "the body did not come within 10 s");
    let read = tokio::time::timeout(READ_WITHIN, axum::body::to_bytes(body, max)).await;
    read.map_err(|_| slow())?.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(|source| source.to_string().contains("length limit")) {
            let message = format!("the body has more than {max} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", message)
        } else {
            Refusal::bad_request("the body ended early")
        }
    })
}

/// A small JSON body.
///
/// # Errors
/// As [`whole`]; 400 names the field.
pub async fn json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let bytes = whole(body, MAX_JSON).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::bad_request(format!("the body: {}", line(&error.to_string(), 300))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_cut_body_ends_with_an_error_and_gives_back_what_it_held() {
        let token = CancellationToken::new();
        let (held, counter) = (Arc::new(()), Counter::default());
        let endless = futures::stream::repeat_with(|| Ok::<_, BoxError>(Bytes::from_static(b"12345")));
        let guarded = Guarded::new(Body::from_stream(endless)).until(token.clone());
        let mut body = Box::pin(guarded.counted(counter.clone()).holding(held.clone()).body());
        let mut next = async || std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        next().await.unwrap().unwrap();
        next().await.unwrap().unwrap();
        assert_eq!((counter.get(), Arc::strong_count(&held)), (10, 2));
        token.cancel();
        assert!(next().await.unwrap().unwrap_err().to_string().contains("no longer accepted"));
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(next().await.is_none());
    }

    #[tokio::test]
    async fn a_small_body_keeps_its_length() {
        let body = Guarded::new(Body::from("hello")).until(CancellationToken::new()).body();
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(whole(body, 5).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn wrong_bodies_are_told_apart() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Small {
            #[allow(dead_code, reason = "only read")]
            number: u8,
        }
        assert_eq!(whole(Body::from("123456"), 5).await.unwrap_err().status, 413);
        let read = |text: &'static str| json::<Small>(Body::from(text));
        assert!(read(r#"{"number":1}"#).await.is_ok());
        let unknown = read(r#"{"number":1,"nmber":2}"#).await.unwrap_err();
        assert!(unknown.status == 400 && unknown.message.contains("nmber"), "{unknown:?}");
        assert_eq!(read("").await.unwrap_err().status, 400);
    }
}
