//! That this agent has joined: which hub, through which gateway, as which provider. Written by the join as its last act, so
//! its presence says that identity, hub's keys and CA are there too.
use std::io;
use std::path::Path;

use muster_proof::Digest;
use muster_proof::tlog::note::VerifierKey;
use serde::{Deserialize, Serialize};

use crate::runtime::files::{self, Access};
use crate::wire::join_record::is_provider_name;

const FILE: &str = "membership.json";
const MAX_FILE: u64 = 64 * 1024;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Membership {
    /// Our name at the hub.
    pub provider: String,
    /// The gateway, `https://HOST:PORT`.
    pub url: String,
    /// Its CA, PEM.
    pub ca: String,
    /// Verifier key of the hub's log: the only one whose heads are believed.
    #[serde(default)]
    pub log: String,
    /// Hash of the join token's secret, to tell a newer token from the one that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Digest>,
}

impl Membership {
    /// What an earlier join left, if there was one.
    ///
    /// # Errors
    /// Any error of the file system, and a file that holds something else.
    pub fn load(state: &Path) -> io::Result<Option<Self>> {
        let path = state.join(FILE);
        let Some(bytes) = files::read_if_there(&path, MAX_FILE)? else { return Ok(None) };
        let damaged = |problem: String| {
            let text = format!("{}: {problem}; remove it and join again with a new token", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let membership: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        membership.check().map_err(damaged)?;
        Ok(Some(membership))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// Any error of the file system.
    pub fn save(&self, state: &Path) -> io::Result<()> {
        files::write_atomic(&state.join(FILE), &serde_json::to_vec_pretty(self)?, Access::Private)
    }

    /// Makes it as if this agent had never joined; durable before anything of another hub is written.
    ///
    /// # Errors
    /// Any error of the file system but absence.
    pub fn forget(state: &Path) -> io::Result<()> {
        files::if_there(std::fs::remove_file(state.join(FILE)))?;
        files::sync_dir(state)
    }

    /// Whether provider, URL and log are ones.
    ///
    /// # Errors
    /// Which is not, and what it should be.
    pub fn check(&self) -> Result<(), String> {
        self.check_address()?;
        if let Err(error) = self.log.parse::<VerifierKey>() {
            return Err(format!(
                "log: {error}; this agent joined before its hub had a log, or the file is damaged"
            ));
        }
        Ok(())
    }

    /// Whether provider and URL are ones: both become parts of names and requests.
    ///
    /// # Errors
    /// Which is not, and what it should be.
    pub fn check_address(&self) -> Result<(), String> {
        if !is_provider_name(&self.provider) {
            return Err("provider is not a DNS label of at most 40 characters".to_owned());
        }
        let url = reqwest::Url::parse(&self.url).map_err(|error| format!("url: {error}"))?;
        let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        if url.scheme() != "https" || url.host_str().is_none() || !bare {
            return Err("url is not https://HOST:PORT".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fake_gateway::LOG;

    #[test]
    fn is_read_back_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), None);
        let good = Membership {
            provider: "east".to_owned(),
            url: "https://10.0.0.1:8443".to_owned(),
            ca: "PEM".to_owned(),
            log: LOG.to_owned(),
            token: Some(Digest::of(b"secret")),
        };
        good.save(dir.path()).unwrap();
        assert_eq!(Membership::load(dir.path()).unwrap(), Some(good.clone()));
        for bad in [
            Membership { provider: "../west".to_owned(), ..good.clone() },
            Membership { provider: String::new(), ..good.clone() },
            Membership { url: "http://10.0.0.1".to_owned(), ..good.clone() },
            Membership { url: "https://10.0.0.1/k8s?x".to_owned(), ..good.clone() },
            Membership { log: String::new(), ..good.clone() },
            Membership { log: LOG.replace("hub", "hug"), ..good.clone() },
        ] {
            bad.save(dir.path()).unwrap();
            let text = Membership::load(dir.path()).unwrap_err().to_string();
            assert!(text.contains("membership.json") && text.contains("new token"), "{text}");
        }
    }
}
