//! Stops the writes of a leader whose term is over (`hub::leader`), before they leave the process. A process that slept for a minute wakes up
//! in the middle of anything: it must not finish what somebody else has begun anew.
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Method, Request};
use futures::TryFutureExt as _;
use futures::future::{Either, ErrInto, Ready, ready};
use muster_core::election::Term;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// Whether this process may write. Cheap to clone; all clones see the same term.
#[derive(Debug, Clone)]
pub struct Fence {
    start: Instant,
    term: Arc<Mutex<Option<Term>>>,
}

impl Default for Fence {
    fn default() -> Self {
        Self { start: Instant::now(), term: Arc::default() }
    }
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this hub does not lead (any more), so nothing was sent")]
pub struct NotLeading;

impl Fence {
    /// Another one, closed, on the same clock.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { start: self.start, term: Arc::default() }
    }

    /// On the clock that terms are measured with: it only goes forward.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Writes may pass for this term.
    pub fn grant(&self, term: Term) {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = Some(term);
    }

    /// None may pass from now on.
    pub fn close(&self) {
        *self.term.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether writes may pass.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.left().is_zero()
    }

    /// How much of the term is left.
    #[must_use]
    pub fn left(&self) -> Duration {
        let term = *self.term.lock().unwrap_or_else(PoisonError::into_inner);
        term.map_or(Duration::ZERO, |term| term.left(self.now()))
    }

    /// Whether a request of this method may pass. Who leads no more may still look.
    ///
    /// # Errors
    /// [`NotLeading`].
    pub fn lets(&self, method: &Method) -> Result<(), NotLeading> {
        if method.is_safe() || self.holds() { Ok(()) } else { Err(NotLeading) }
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, fence: self.clone() }
    }
}

/// Requests to the API server behind a [`Fence`].
#[derive(Debug, Clone)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, ErrInto<S::Future, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.fence.lets(request.method()) {
            Ok(()) => Either::Right(self.inner.call(request).err_into()),
            Err(not) => Either::Left(ready(Err(not.into()))),
        }
    }
}
