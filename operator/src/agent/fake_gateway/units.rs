//! Blobs and commits of unit `u`.
use super::*;
use crate::wire::gateway::CheckpointCommit;

pub fn routes() -> Router<Arc<Mutex<Hub>>> {
    Router::new()
        .route("/v1/units/u/blobs/sha256/{hex}", get(blob).put(put_blob))
        .route("/v1/units/u/checkpoints/{step}", post(commit))
}

async fn blob(State(hub): Shared, _: Admitted, Path(hex): Path<String>, headers: HeaderMap) -> Response {
    let mut hub = locked(&hub);
    let Some(bytes) = hub.blobs.get(&Digest::from_hex(&hex).unwrap()).cloned() else {
        return refuse(404, "NotFound");
    };
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned());
    let from: usize = range.as_ref().map_or(0, |r| r["bytes=".len()..r.len() - 1].parse().unwrap());
    hub.ranges.extend(range.clone());
    let rest = Bytes::copy_from_slice(&bytes[from..]);
    let length = rest.len();
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = vec![Ok(rest.clone())];
    if let Some(cut) = hub.cut.filter(|cut| *cut < length) {
        pieces = vec![Ok(rest.slice(..cut)), Err(std::io::Error::other("cut"))];
    }
    let pieces = futures::stream::iter(pieces).then(|piece| async move {
        if piece.is_err() {
            // What came before must have left the machine.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        piece
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    if range.is_some() {
        let text = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

async fn put_blob(State(hub): Shared, _: Admitted, Path(hex): Path<String>, body: Bytes) -> Response {
    let mut hub = locked(&hub);
    assert_eq!(Digest::of(&body).to_hex(), hex);
    hub.blobs.insert(Digest::of(&body), body.to_vec());
    StatusCode::CREATED.into_response()
}

async fn commit(
    State(hub): Shared,
    _: Admitted,
    Path(step): Path<u64>,
    Json(body): Json<CheckpointCommit>,
) -> Response {
    let mut hub = locked(&hub);
    if let Some((status, reason)) = hub.refuses_commits {
        return refuse(status, reason);
    }
    hub.commits.push((step, body.manifest));
    Json(hub.log.append(&body.commit)).into_response()
}
