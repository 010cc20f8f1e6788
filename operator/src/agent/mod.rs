//! `muster agent run`: takes signed WorkUnits from the hub, renders Jobs on the member, serves the relay that pods talk
//! to. It dials out only; the hub holds no credential of the member.
//!
//! | module | what |
//! |---|---|
//! | [`controller`] | one task per unit: dereference, validate, observe, decide, apply, say |
//! | [`accept`] | envelope, mirror, policy |
//! | [`render`], [`observe`] | pure: payload to Job, Jobs and pods to facts |
//! | [`member`], [`hub`], [`hub_blobs`] | the only holders of clients |
//! | [`relay`] | the pods' service: rendezvous, blobs, checkpoints, progress |
//! | [`upload`], [`status`], [`report`] | what the hub gets |
//! | [`state`], [`units`] | what survives a restart |
//! | [`rbac`] | the agent's rights on the member |
//!
//! Decisions are not made here but in `muster_core::{envelope, attempt}`.

pub mod accept;
pub mod controller;
pub mod hub;
pub mod hub_blobs;
pub mod member;
pub mod observe;
pub mod rbac;
pub mod relay;
pub mod render;
pub mod report;
mod run;
pub mod state;
pub mod status;
#[cfg(test)]
mod testing;
pub mod units;
pub mod upload;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use run::run;

/// The one device class that this version offers.
pub const DEVICE_CLASS: &str = "cpu";
/// What the trainer images of this version compute in.
pub const ARITHMETIC: &[&str] = &["f32-chain"];

/// Flags of `muster agent run`.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    /// Join file from the hub's admin (`muster provider join-file`); read again when it is replaced
    #[arg(long, value_name = "FILE")]
    pub join_file: PathBuf,
    /// Kubeconfig of ServiceAccount muster-agent on the member
    #[arg(long, value_name = "FILE")]
    pub member_kubeconfig: PathBuf,
    /// Namespace of the lent capacity on the member
    #[arg(long, value_name = "NAME", default_value = "muster-lent")]
    pub namespace: String,
    /// Where the relay listens
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9443")]
    pub relay_listen: SocketAddr,
    /// How pods reach the relay, such as https://10.0.0.2:9443; must stay the same while pods run
    #[arg(long, value_name = "URL")]
    pub relay_url: String,
    /// State directory; keep it over restarts
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Trainer image that the hub may run here; may be repeated
    #[arg(long = "allow-image", value_name = "NAME@sha256:HEX", required = true)]
    pub allow_image: Vec<String>,
    /// How many cpu workers are lent
    #[arg(long, value_name = "N")]
    pub workers: u32,
}

/// The agent's configuration after checking.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our name at the hub.
    pub provider: String,
    /// Allowed images, `NAME@sha256:<hex>`.
    pub images: Vec<String>,
    /// Lent workers.
    pub workers: i64,
}

impl Settings {
    /// The digests of the allowed images.
    #[must_use]
    pub fn image_digests(&self) -> Vec<String> {
        let mut digests: Vec<String> =
            self.images.iter().filter_map(|image| Some(image.split_once('@')?.1.to_owned())).collect();
        digests.sort();
        digests.dedup();
        digests
    }
}
