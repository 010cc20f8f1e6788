//! The relay: the only service that the pods talk to (docs/spec/protocol.md section 3). It knows no Kubernetes: who
//! asks is the [`Reviewer`]'s business, what the hub has is [`HubBlobs`]'.
//!
//! | module | what |
//! |---|---|
//! | [`identity`] | from a token to a worker |
//! | `asked` | who asks, before anything that it says is read |
//! | [`rounds`] | rendezvous, start checkpoint, list of peers |
//! | [`blobs`] | the cache, read through from the hub; what a pod may read |
//! | `puts` | what a pod may put |
//! | [`terms`], [`checkpoints`] | what a commit must say, and what a checkpoint must satisfy |
//! | `failures` | the same of a step that is not finite |
//! | [`bindings`] | the bound key as a record of the log |
//! | [`routes`] | HTTP |

mod asked;
pub mod bindings;
pub mod blobs;
pub mod checkpoints;
mod failures;
pub mod identity;
mod puts;
pub mod rounds;
mod routes;
pub mod terms;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use axum_server::tls_rustls::RustlsConfig;
use muster_proof::key::SigningKey;

use super::answers::Answers;
use super::hub_blobs::HubBlobs;
use super::salt::Salts;
use super::units::Units;
use crate::runtime::Shutdown;
use crate::runtime::blobdir::BlobDir;
use crate::runtime::connections::{self, Acceptor, Connections};
use identity::{Kept, Reviewer};

/// Connections of all pods together: what they take of memory stays well below what the agent has.
const CONNECTIONS: usize = 2048;

/// What the handlers share.
#[derive(Debug)]
pub struct Relay {
    units: Arc<Units>,
    blobs: Arc<BlobDir>,
    hub: Arc<dyn HubBlobs>,
    reviewer: Arc<dyn Reviewer>,
    signer: SigningKey,
    identity: SigningKey,
    salts: Salts,
    answers: Arc<Answers>,
    kept: Kept,
    flights: blobs::Flights,
    bodies: asked::Bodies,
    puts: puts::Puts,
}

/// What the relay signs with, and what it hides with.
#[derive(Debug)]
pub struct Secrets {
    /// Signs lists of peers: the key of the CA that the pods pin.
    pub signer: SigningKey,
    /// Signs bindings for the log: the agent's own.
    pub identity: SigningKey,
    /// Hide step records.
    pub salts: Salts,
    /// Keeps what opens them.
    pub answers: Arc<Answers>,
}

impl Relay {
    /// See the module.
    #[must_use]
    pub fn new(
        units: Arc<Units>,
        blobs: Arc<BlobDir>,
        hub: Arc<dyn HubBlobs>,
        reviewer: Arc<dyn Reviewer>,
        secrets: Secrets,
    ) -> Arc<Self> {
        let Secrets { signer, identity, salts, answers } = secrets;
        let (kept, flights) = (Kept::default(), blobs::Flights::default());
        let (bodies, puts) = (asked::Bodies::default(), puts::Puts::default());
        Arc::new(Self {
            units,
            blobs,
            hub,
            reviewer,
            signer,
            identity,
            salts,
            answers,
            kept,
            flights,
            bodies,
            puts,
        })
    }

    /// Serves until `shutdown`, then gives open requests a moment.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn serve(
        self: Arc<Self>,
        listener: std::net::TcpListener,
        tls: RustlsConfig,
        shutdown: Shutdown,
    ) -> std::io::Result<()> {
        let handle = axum_server::Handle::<SocketAddr>::new();
        let stop = handle.clone();
        let stopping = tokio::spawn(async move {
            shutdown.wait().await;
            stop.graceful_shutdown(Some(std::time::Duration::from_secs(1)));
        });
        // Where the cluster rewrites addresses, all pods of a node or more have one.
        let acceptor = Acceptor::new(tls.get_inner(), Connections::new(CONNECTIONS, CONNECTIONS));
        // HTTP/2 would buffer a megabyte for each connection, asked or not.
        let server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle).http1_only();
        let served = connections::hurried(server).serve(routes::router(self).into_make_service()).await;
        stopping.abort();
        served
    }
}
