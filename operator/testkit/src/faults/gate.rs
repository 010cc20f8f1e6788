//! What lies between a watch and whoever reads it.

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use serde_json::json;
use tokio::time::Instant;

use super::Script;
use crate::api::Refused;

type Frames = UnsyncBoxBody<Bytes, std::io::Error>;
type Item = Result<Frame<Bytes>, std::io::Error>;

/// The watch as the script lets it through.
pub fn gated(body: Frames, script: &Script) -> Frames {
    let script = script.clone();
    let born = script.state().expired;
    let frames =
        Watch { frames: StreamExt::boxed(BodyStream::new(body)), script, born, again: None, over: false };
    StreamBody::new(stream::unfold(frames, |mut watch| async move {
        watch.next().await.map(|item| (item, watch))
    }))
    .boxed_unsync()
}

struct Watch<S> {
    frames: S,
    script: Script,
    /// Expirations before it was begun.
    born: u64,
    /// Comes once more.
    again: Option<Bytes>,
    over: bool,
}

impl<S: Stream<Item = Item> + Unpin> Watch<S> {
    async fn next(&mut self) -> Option<Item> {
        if self.over {
            return None;
        }
        if let Some(again) = self.again.take() {
            return Some(Ok(Frame::data(again)));
        }
        let (script, born) = (self.script.clone(), self.born);
        let frame = tokio::select! {
            biased;
            () = expiry(&script, born) => {
                self.over = true;
                return Some(Ok(Frame::data(gone(born))));
            }
            frame = self.frames.next() => frame,
        };
        loop {
            let frozen = self.script.state().frozen.filter(|until| *until > Instant::now());
            let Some(until) = frozen else { break };
            tokio::time::sleep_until(until).await;
        }
        if self.script.state().repeating.is_some_and(|until| until > Instant::now()) {
            self.again = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().cloned());
        }
        frame
    }
}

async fn expiry(script: &Script, born: u64) {
    loop {
        let told = script.0.expiry.notified();
        let mut told = std::pin::pin!(told);
        told.as_mut().enable();
        if script.state().expired > born {
            return;
        }
        told.await;
    }
}

fn gone(born: u64) -> Bytes {
    // The server's own words; which versions it has forgotten is nothing to whoever reads them.
    let why = Refused::expired(born, born);
    Bytes::from(format!("{}\n", json!({"type": "ERROR", "object": why.status()})))
}
