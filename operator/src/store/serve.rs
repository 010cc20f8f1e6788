//! A blob over HTTP: `GET` and `HEAD` with one range and the conditional headers of RFC 9110. Who may have it is asked
//! before.
use std::io;
use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use muster_proof::Digest;

use super::Store;

impl Store {
    /// Answers `GET` or `HEAD` of a blob; `None` if it is not there.
    ///
    /// # Errors
    /// Any error of the backend but absence. One that comes later cuts the body short of its length.
    pub async fn answer(
        &self,
        digest: &Digest,
        method: &Method,
        headers: &HeaderMap,
    ) -> io::Result<Option<Response>> {
        let Some(size) = self.size(digest).await? else { return Ok(None) };
        let tag = format!("\"{digest}\"");
        let mut answer = match part(headers, &tag, method, size) {
            Part::NotModified => StatusCode::NOT_MODIFIED.into_response(),
            Part::Failed => StatusCode::PRECONDITION_FAILED.into_response(),
            Part::Unsatisfiable => {
                let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response()
            }
            Part::Whole if method == Method::HEAD => with_length(StatusCode::OK, size, Body::empty()),
            Part::Whole => match self.stream(digest, 0..size).await? {
                Some(bytes) => with_length(StatusCode::OK, size, Body::from_stream(bytes)),
                None => return Ok(None),
            },
            Part::Of(range) => {
                let Some(bytes) = self.stream(digest, range.clone()).await? else { return Ok(None) };
                let length = range.end - range.start;
                let mut answer = with_length(StatusCode::PARTIAL_CONTENT, length, Body::from_stream(bytes));
                let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                set(&mut answer, header::CONTENT_RANGE, &text);
                answer
            }
        };
        set(&mut answer, header::ETAG, &tag);
        set(&mut answer, header::ACCEPT_RANGES, "bytes");
        Ok(Some(answer))
    }
}

fn with_length(status: StatusCode, length: u64, body: Body) -> Response {
    let mut answer = (status, body).into_response();
    set(&mut answer, header::CONTENT_LENGTH, &length.to_string());
    set(&mut answer, header::CONTENT_TYPE, "application/octet-stream");
    answer
}

fn set(answer: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// What of the blob is to be sent.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Of(Range<u64>),
    Unsatisfiable,
    NotModified,
    Failed,
}

fn part(headers: &HeaderMap, tag: &str, method: &Method, size: u64) -> Part {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let names = |list: &str| {
        list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
    };
    if text(header::IF_MATCH).is_some_and(|list| !names(list)) {
        return Part::Failed;
    }
    if text(header::IF_NONE_MATCH).is_some_and(names) {
        return Part::NotModified;
    }
    // A blob never changes, so If-Range only matters for somebody who has something else.
    if method == Method::HEAD || text(header::IF_RANGE).is_some_and(|one| one.trim() != tag) {
        return Part::Whole;
    }
    text(header::RANGE).map_or(Part::Whole, |range| parse_range(range, size))
}

/// One range. Anything else that may stand there (other units, several ranges, nonsense) is answered with the whole, as
/// the RFC allows.
fn parse_range(text: &str, size: u64) -> Part {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        // More digits than a u64 has are beyond any end.
        plain.then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(last)) if first.is_empty() => size.saturating_sub(last)..size,
        _ => return Part::Whole,
    };
    if range.start >= size { Part::Unsatisfiable } else { Part::Of(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_honoured_and_anything_else_is_the_whole() {
        for (text, want) in [
            ("bytes=0-3", Part::Of(0..4)),
            ("bytes=4-", Part::Of(4..10)),
            ("bytes=-3", Part::Of(7..10)),
            ("bytes=-30", Part::Of(0..10)),
            ("bytes=0-99999999999999999999999", Part::Of(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=+1-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=0-3", Part::Whole),
        ] {
            assert_eq!(parse_range(text, 10), want, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Part::Unsatisfiable);
    }

    #[test]
    fn conditions_come_before_the_range() {
        let part = |name: header::HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            part(&headers, "\"t\"", &Method::GET, 10)
        };
        assert_eq!(part(header::IF_NONE_MATCH, "\"x\", W/\"t\""), Part::NotModified);
        assert_eq!(part(header::IF_MATCH, "\"x\""), Part::Failed);
        assert_eq!(part(header::IF_RANGE, "\"t\""), Part::Of(1..3));
        assert_eq!(part(header::IF_RANGE, "\"x\""), Part::Whole);
    }
}
