//! `muster agent`: takes signed WorkUnits from the hub, renders Jobs on the member, serves the relay that pods talk to. It
//! dials out only, and at the hub to the gateway only; the hub holds no credential of the member.
//!
//! | module | what |
//! |---|---|
//! | [`controller`] | one task per unit: dereference, validate, observe, decide, apply, say |
//! | [`accept`], [`policy`], [`switch`] | envelope, mirror; what the provider lends, and its off switch |
//! | [`identity`], [`pin`], [`join`], [`membership`] | who we are, whom we believe, and how that began |
//! | `before_join` | the off switch, while nothing else is known |
//! | [`session`], [`gateway`], [`heartbeat`] | tokens, the gateway's endpoints, what the hub declares void |
//! | [`hub_keys`], [`fence`] | whose signatures count, which epochs still do; both only move forward |
//! | [`children`] | Jobs and pods as the watches of the member tell of them |
//! | [`render`], [`observe`] | pure: payload to Job, Jobs and pods to facts |
//! | [`member`], [`hub`], [`hub_client`], [`hub_blobs`], [`direct`] | the only holders of clients |
//! | [`log`], [`witness`], [`provider_key`] | the hub's log: what was seen of it, and our key in it |
//! | [`salt`], [`secret`], [`commits`] | what hides step records, and where they are kept |
//! | [`answers`] | what audits ask for: openings of commits, seals and openings of replays |
//! | [`relay`] | the pods' service: rendezvous, blobs, checkpoints, progress |
//! | [`upload`], [`status`], [`report`] | what the hub gets |
//! | [`quota`] | what the member's ResourceQuotas leave |
//! | [`logs`], [`streams`], [`kept`] | workers' logs: at the member, for who asks, of attempts that failed |
//! | [`state`], [`units`], `brief` | what survives a restart; what units ask of each other |
//! | `cheat` | lies, in builds that are made to tell some |
//! | [`rbac`], [`doctor`] | the agent's rights on the member; what is missing |
//!
//! Decisions are not made here but in `muster_core::{envelope, attempt, policy, hub_keys}`.

pub mod accept;
pub mod answers;
mod before_join;
mod brief;
#[cfg(feature = "cheats")]
mod cheat;
pub mod children;
pub mod commits;
pub mod controller;
pub mod direct;
pub mod doctor;
#[cfg(test)]
mod fake_gateway;
pub mod fence;
pub mod gateway;
#[cfg(test)]
mod gateway_tests;
pub mod heartbeat;
pub mod hub;
pub mod hub_blobs;
pub mod hub_client;
pub mod hub_keys;
pub mod identity;
pub mod join;
mod joined;
pub mod kept;
pub mod log;
pub mod logs;
pub mod member;
pub mod membership;
pub mod nodes;
pub mod observe;
pub mod onlooker;
pub mod pin;
pub mod policy;
mod presence;
pub mod provider_key;
pub mod quota;
pub mod rbac;
pub mod recover;
pub mod relay;
mod relay_address;
pub mod render;
pub mod report;
mod run;
pub mod salt;
pub mod secret;
pub mod session;
pub mod state;
pub mod status;
pub mod streams;
pub mod switch;
#[cfg(test)]
pub(crate) mod testing;
pub mod units;
pub mod upload;
pub mod witness;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use joined::JoinArgs;
use muster_api::v1alpha1::Arithmetic;
use policy::{LoadError, Policies};
pub use run::run;
use switch::Switch;

/// The one device class that this version offers.
pub const DEVICE_CLASS: &str = "cpu";
/// What the trainer images of this version compute in.
pub const ARITHMETIC: &[&str] = &[Arithmetic::F32Chain.as_str(), Arithmetic::I16Exact.as_str()];

/// Flags of `muster agent run`.
#[derive(Debug, Clone, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub join: JoinArgs,
    #[command(flatten)]
    pub member: MemberArgs,
    /// Where the relay listens
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:9443")]
    pub relay_listen: SocketAddr,
    #[command(flatten)]
    pub relay: RelayAddress,
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// The member cluster, as the agent reaches it.
#[derive(Debug, Clone, clap::Args)]
pub struct MemberArgs {
    /// Kubeconfig of ServiceAccount muster-agent on the member, for an agent outside of it [default: the pod's own]
    #[arg(long, value_name = "FILE")]
    pub member_kubeconfig: Option<PathBuf>,
    /// Namespace of the lent capacity on the member
    #[arg(long, value_name = "NAME", default_value = "muster-lent")]
    pub namespace: String,
}

/// How pods reach the relay. They have no DNS, and pods outlive the agent's own pod: it must be an address that stays.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct RelayAddress {
    /// Service of the member whose cluster address leads to the relay: for an agent in the member
    #[arg(long, value_name = "NAME")]
    pub relay_service: Option<String>,
    /// The relay's URL, such as https://10.0.0.2:9443: for an agent outside
    #[arg(long, value_name = "URL")]
    pub relay_url: Option<String>,
}

/// What is lent: a file, or the two flags that are its simple form.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PolicyArgs {
    /// What is lent, to which images and when (YAML); read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["allow_image", "workers"])]
    pub policy: Option<PathBuf>,
    /// Trainer image that the hub may run here; may be repeated
    #[arg(long = "allow-image", value_name = "NAME@sha256:HEX")]
    pub allow_image: Vec<String>,
    /// How many cpu workers are lent
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
}

impl PolicyArgs {
    /// The policy that they name; `None` if they name none.
    ///
    /// # Errors
    /// A file or flag that says something impossible.
    pub fn load(&self, switch: Arc<Switch>) -> Result<Option<Policies>, LoadError> {
        match (&self.policy, self.allow_image.is_empty(), self.workers) {
            (Some(path), _, _) => Policies::from_file(path, switch).map(Some),
            (None, false, Some(workers)) => {
                Policies::from_flags(&self.allow_image, workers, switch).map(Some)
            }
            _ => Ok(None),
        }
    }
}
