//! The policy of a hub's users: a head counts when more than two thirds of the owners cosigned it, and the
//! tenant's own witness, if there is one. An owner counts once, however many providers it has.

use super::{Policy, PolicyError, VerifierKey};
use crate::tlog::note::MAX_SIGNATURES;

/// Who owns providers, and their witnesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name; one word.
    pub name: String,
    /// For each provider its name, one word, and its witness's key. One cosignature of them is the owner's.
    pub providers: Vec<(String, VerifierKey)>,
}

impl Policy {
    /// The policy of these logs and owners: each owner is a group `any` named `owner/<name>` of witnesses
    /// named `provider/<name>`; the group `owners` needs floor(2n/3) + 1 of n. With a `tenant` key, the
    /// quorum is that group and the witness `tenant`.
    ///
    /// # Errors
    /// [`PolicyError`]: no owner, an owner without providers, a name with spaces, a name or key that occurs
    /// twice, a key of the wrong kind, more than a policy can have, or more owners than a note has signatures for.
    pub fn owners(
        logs: &[VerifierKey],
        owners: &[Owner],
        tenant: Option<&VerifierKey>,
    ) -> Result<Self, PolicyError> {
        let refuse = |why: String| Err(PolicyError { line: None, why });
        // Written as a file and read again: what holds for every policy holds for this one.
        let mut lines: Vec<String> = logs.iter().map(|key| format!("log {key}")).collect();
        for owner in owners {
            for name in std::iter::once(&owner.name).chain(owner.providers.iter().map(|(name, _)| name)) {
                // A space would end the word and a newline begin another line.
                if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
                    return refuse(format!("the name {name:?} of owner {:?} must be one word", owner.name));
                }
            }
            for (name, key) in &owner.providers {
                lines.push(format!("witness provider/{name} {key}"));
            }
        }
        for Owner { name, providers } in owners {
            if providers.is_empty() {
                return refuse(format!("owner {name:?} has no provider, so it can never cosign"));
            }
            let members: String = providers.iter().map(|(name, _)| format!(" provider/{name}")).collect();
            lines.push(format!("group owner/{name} any{members}"));
        }
        if owners.is_empty() {
            return refuse("a policy of owners needs at least one".into());
        }
        let threshold = owners.len() * 2 / 3 + 1;
        // The log's own signature and the tenant's need room beside those of the owners.
        if threshold + 1 + usize::from(tenant.is_some()) > MAX_SIGNATURES {
            return refuse(format!(
                "{threshold} owners must cosign, but a note has {MAX_SIGNATURES} signatures"
            ));
        }
        let members: String = owners.iter().map(|owner| format!(" owner/{}", owner.name)).collect();
        lines.push(format!("group owners {threshold}{members}"));
        if let Some(key) = tenant {
            lines.push(format!("witness tenant {key}"));
            lines.push("group owners-and-tenant all owners tenant".to_owned());
        }
        lines.push(format!("quorum {}", if tenant.is_some() { "owners-and-tenant" } else { "owners" }));
        lines.join("\n").parse().map_err(|PolicyError { why, .. }| PolicyError { line: None, why })
    }
}
