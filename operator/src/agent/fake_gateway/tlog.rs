//! The log of the fake gateway: real heads, tiles and signatures, of whatever a test has appended.
use muster_proof::merkle;
use muster_proof::tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use muster_proof::tlog::frontier::Frontier;
use muster_proof::tlog::note::{Algorithm, KeyName, NoteKey, parse_signatures};
use muster_proof::tlog::tile::{Resource, Tile};

use super::*;
use crate::wire::gateway::ProviderAnswer;
use crate::wire::log::{LogEntry, Logged};

/// Its verifier key.
pub const LOG: &str = "hub.example/log+d3e5df27+AW56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx";
/// Its origin.
pub const ORIGIN: &str = "hub.example/log";

/// What it has, and what it does.
#[derive(Debug)]
pub struct Log {
    frontier: Frontier,
    tiles: BTreeMap<Tile, Vec<u8>>,
    /// Records, in their order.
    pub entries: Vec<Envelope>,
    /// Cosignatures that were brought, by size.
    pub cosignatures: Vec<(u64, String)>,
    /// Served instead of the head.
    pub head: Option<String>,
    /// Refuses cosignatures with this status.
    pub refuses_cosignatures: Option<u16>,
    /// Records of types that it refuses, with this reason.
    pub refuses_records: Option<&'static str>,
    /// Who stands behind the provider.
    pub owner: String,
    /// Records of provider's keys that were left here.
    pub pending: Vec<Envelope>,
    /// Whether the hub countersigns at once.
    pub countersigns: bool,
}

impl Log {
    pub fn new() -> Self {
        Self {
            frontier: Frontier::new(),
            tiles: BTreeMap::new(),
            entries: Vec::new(),
            cosignatures: Vec::new(),
            head: None,
            refuses_cosignatures: None,
            refuses_records: None,
            owner: "acme".to_owned(),
            pending: Vec::new(),
            countersigns: false,
        }
    }

    /// A history of `n` entries that the number `seed` makes.
    pub fn grown(seed: u8, n: usize) -> Self {
        let mut log = Self::new();
        log.grow(seed, n);
        log
    }

    /// More entries; what they are does not matter.
    pub fn grow(&mut self, seed: u8, n: usize) {
        let first = self.frontier.size();
        let leaf = |at: u64| merkle::leaf(&[&[seed], at.to_le_bytes().as_slice()].concat());
        let leaves: Vec<Digest> = (first..first + n as u64).map(leaf).collect();
        self.add(&leaves);
    }

    fn add(&mut self, leaves: &[Digest]) {
        for file in self.frontier.append(leaves).unwrap() {
            self.tiles.insert(file.tile, file.data);
        }
    }

    /// Takes a record, once.
    pub fn append(&mut self, record: &Envelope) -> Logged {
        let record_id = record.record_id();
        let known = self.entries.iter().position(|entry| entry.record_id() == record_id);
        let index = known.unwrap_or_else(|| {
            self.add(&[merkle::leaf(record_id.as_bytes())]);
            self.entries.push(record.clone());
            self.entries.len() - 1
        });
        Logged { index: index as u64, record_id }
    }

    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The head, signed by the log's key.
    pub fn head(&self) -> String {
        self.head_by(&log_key())
    }

    /// The head, signed by another key of the same name.
    pub fn head_by(&self, key: &NoteKey) -> String {
        let head = Checkpoint::new(ORIGIN, self.size(), self.frontier.root()).unwrap();
        SignedCheckpoint::sign(head, key).unwrap().to_string()
    }
}

/// The log's key.
pub fn log_key() -> NoteKey {
    note_key(5)
}

/// A key of the log's name.
pub fn note_key(seed: u8) -> NoteKey {
    NoteKey::new(KeyName::new(ORIGIN).unwrap(), Algorithm::Ed25519, [seed; 32])
}

pub fn routes() -> Router<Arc<Mutex<Hub>>> {
    Router::new()
        .route("/v1/log/checkpoint", get(head))
        .route("/v1/log/tile/{*path}", get(tile))
        .route("/v1/log/entries", post(submit))
        .route("/v1/log/entries/{hex}", get(entry))
        .route("/v1/log/cosignatures", post(cosign))
        .route("/v1/provider", get(provider))
        .route("/v1/provider-key", post(provider_key))
}

async fn head(State(hub): Shared) -> String {
    let log = &locked(&hub).log;
    log.head.clone().unwrap_or_else(|| log.head())
}

async fn tile(State(hub): Shared, Path(path): Path<String>) -> Response {
    let resource: Resource = format!("tile/{path}").parse().unwrap();
    let Resource::Tile(tile) = resource else { return refuse(404, "TileNotFound") };
    match locked(&hub).log.tiles.get(&tile) {
        Some(bytes) => bytes.clone().into_response(),
        None => refuse(404, "TileNotFound"),
    }
}

async fn submit(State(hub): Shared, _: Admitted, body: Bytes) -> Response {
    let mut hub = locked(&hub);
    if let Some(reason) = hub.log.refuses_records {
        return refuse(409, reason);
    }
    Json(hub.log.append(&Envelope::parse(&body, 1 << 20).unwrap())).into_response()
}

async fn entry(State(hub): Shared, Path(hex): Path<String>) -> Response {
    let entries = &locked(&hub).log.entries;
    let found = entries.iter().zip(0..).find(|(entry, _)| entry.record_id().to_hex() == hex);
    match found {
        Some((envelope, index)) => Json(LogEntry { index, envelope: envelope.clone() }).into_response(),
        None => refuse(404, "RecordNotFound"),
    }
}

#[derive(serde::Deserialize)]
struct OfSize {
    size: u64,
}

async fn cosign(
    State(hub): Shared,
    _: Admitted,
    axum::extract::Query(OfSize { size }): axum::extract::Query<OfSize>,
    body: String,
) -> Response {
    let mut hub = locked(&hub);
    if let Some(status) = hub.log.refuses_cosignatures {
        return refuse(status, "Refused");
    }
    assert_eq!(parse_signatures(body.as_bytes()).unwrap().len(), 1);
    hub.log.cosignatures.push((size, body));
    StatusCode::OK.into_response()
}

async fn provider(State(hub): Shared, _: Admitted) -> Response {
    let hub = locked(&hub);
    let (provider, owner) = ("east".to_owned(), hub.log.owner.clone());
    Json(ProviderAnswer { provider, owner, log: hub.public.log.clone().unwrap_or_default() }).into_response()
}

async fn provider_key(State(hub): Shared, _: Admitted, body: Bytes) -> Response {
    let mut hub = locked(&hub);
    let record = Envelope::parse(&body, 1 << 20).unwrap();
    hub.log.pending.push(record.clone());
    match hub.log.countersigns {
        true => Json(hub.log.append(&record)).into_response(),
        false => StatusCode::ACCEPTED.into_response(),
    }
}
