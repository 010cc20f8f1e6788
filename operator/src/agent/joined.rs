//! How a process becomes an agent of a hub: with a join token the first time, by its key ever after.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use muster_proof::Digest;

use super::identity::Identity;
use super::join::{self, JoinError};
use super::membership::Membership;
use crate::runtime::{Shutdown, files};
use crate::wire::join_token::{JoinToken, MAX_BYTES};

/// Holds a join token, for those who cannot make a file.
const TOKEN_VARIABLE: &str = "MUSTER_JOIN_TOKEN";

/// Where an agent's memory is, and what lets it in.
#[derive(Debug, Clone, clap::Args)]
pub struct JoinArgs {
    /// File with the join token from the hub's admin (`muster provider create-token`). It is read at each start: a
    /// newer one in its place joins again, with the same key and state. The variable MUSTER_JOIN_TOKEN may hold the token instead
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// State directory; keep it over restarts
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
}

impl JoinArgs {
    /// Who we are and whom we talk to; joins if we have not.
    ///
    /// # Errors
    /// No token, or one that the gateway refuses.
    pub async fn membership(&self, shutdown: &Shutdown) -> anyhow::Result<(Arc<Identity>, Membership)> {
        let (identity, membership) = match Membership::load(&self.state)? {
            Some(membership) => {
                let identity = Arc::new(Identity::existing(&self.state)?);
                let membership = self.join_again(&identity, membership, shutdown).await?;
                (identity, membership)
            }
            None => {
                let (identity, token) = (Arc::new(Identity::open(&self.state)?), self.token()?);
                let patience = join::Patience::UntilJoined;
                let membership = join::join(&self.state, &identity, &token, patience, shutdown).await?;
                (identity, membership)
            }
        };
        tracing::info!(fingerprint = %identity.fingerprint(), "this agent's key");
        Ok((identity, membership))
    }

    /// The token, from where it was put. It is in no message and no log.
    fn token(&self) -> anyhow::Result<JoinToken> {
        if let Some(path) = &self.join_token_file {
            let bytes = files::read_capped(path, MAX_BYTES as u64 + 2).context("--join-token-file")?;
            let text =
                String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("--join-token-file: not a text"))?;
            return JoinToken::parse(&text).with_context(|| format!("--join-token-file {}", path.display()));
        }
        match std::env::var(TOKEN_VARIABLE) {
            Ok(text) => JoinToken::parse(&text).context(TOKEN_VARIABLE),
            Err(_) => bail!(
                "--state {}: this agent has not joined a hub yet; have its admin run `muster provider create-token` and pass \
                 the token with --join-token-file",
                self.state.display()
            ),
        }
    }

    /// A newer token in the place of the one that was used: the provider was made anew, or the gateway has another CA or
    /// address. What is known stays if the token turns out to be of no use.
    async fn join_again(
        &self,
        identity: &Identity,
        known: Membership,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Membership> {
        // Who has joined needs no token any more, so none, or one that cannot be read, is no trouble.
        let Some(token) = self.token().ok().filter(|token| token.hash() != known.token) else {
            return Ok(known);
        };
        if token.provider != known.provider {
            bail!(
                "the join token is for provider {}, but --state {} is provider {}'s; give each its own state directory",
                token.provider,
                self.state.display(),
                known.provider
            );
        }
        match join::join(&self.state, identity, &token, join::Patience::Once, shutdown).await {
            Ok(membership) => Ok(membership),
            Err(error @ (JoinError::Stopped | JoinError::Between(_))) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the new join token is of no use; going on as before");
                Ok(known)
            }
        }
    }
}

/// One agent per state directory: two would make attempts behind each other's back, or cosign two histories.
///
/// # Errors
/// Another agent has it.
pub fn lock(state: &Path) -> anyhow::Result<File> {
    let path = state.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("--state {}: another agent uses it", state.display()))?;
    Ok(file)
}

/// Differs between processes: two agents of one provider can tell each other apart.
///
/// # Errors
/// No randomness.
pub fn holder() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(format!("agent-{}", &Digest::from_bytes(bytes).to_hex()[..12]))
}
