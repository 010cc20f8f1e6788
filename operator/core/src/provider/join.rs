//! How a provider's key is let in: from the join's records and the spec to the conditions Joined and Accepted, and whether
//! the hub pins the key by itself (docs/spec/gateway.md section 2).
//!
//! Pinning goes one way. The hub adds a key that the admin promised to accept when he made the token, once; whatever the
//! admin takes out afterwards stays out. It never removes a key, and a revoked provider gets none.
use jiff::Timestamp;
use muster_proof::Digest;

use super::{Scheduling, Verdict};

/// Most keys that a provider may have at a time.
pub const MAX_KEYS: usize = 3;

/// Who pins the key that a join presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// The admin.
    Manual,
    /// The hub: the admin said so when he made the token.
    Auto,
}

/// The newest join token, as far as the hub knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of its secret.
    pub hash: Digest,
    /// Void from then on.
    pub expires: Timestamp,
    /// Who pins.
    pub accept: Accept,
}

/// A key came with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Hash of the token.
    pub token: Digest,
    /// Fingerprint of the key.
    pub key: Digest,
    /// When, by the gateway's clock.
    pub at: Timestamp,
}

/// An entry of `spec.acceptedKeys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Fingerprint of the key.
    pub key: Digest,
    /// Not accepted from then on.
    pub until: Option<Timestamp>,
}

/// What the status said before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// `status.presentedKey`.
    pub presented: Option<Digest>,
    /// Whether that key had been accepted once: its absence is then somebody's decision, not a wait for one.
    pub accepted: Was,
    /// Hash of the token whose key the hub has pinned by itself.
    pub pinned_for: Option<Digest>,
}

/// What became of the presented key so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Was {
    /// It was never accepted, as far as is known.
    #[default]
    Never,
    /// It was.
    Accepted,
}

/// Everything that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Name of the provider, for the commands in messages.
    pub name: &'a str,
    /// `spec.scheduling`, or the deletion.
    pub scheduling: Scheduling,
    /// The newest token.
    pub token: Option<Token>,
    /// All claims that are still there.
    pub claims: Vec<Claim>,
    /// `spec.acceptedKeys`.
    pub keys: Vec<Pinned>,
    /// What was said before.
    pub before: Before,
    /// Now.
    pub now: Timestamp,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// For `status.presentedKey`.
    pub presented: Option<Digest>,
    /// Condition Joined.
    pub joined: Verdict,
    /// Condition Accepted.
    pub accepted: Verdict,
    /// What the hub writes into the spec.
    pub pin: Option<Pin>,
    /// When this may be different without news.
    pub holds_until: Option<Timestamp>,
}

/// A write of the hub's own: together with the key it notes the token, so that it happens once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The token whose promise is kept.
    pub token: Digest,
    /// The key to add; `None` if the admin was quicker, and only the note is missing.
    pub key: Option<Digest>,
}

impl Admission {
    /// What stands in the way of work, if something does: nobody has come, or his key is not let in.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Verdict> {
        match (self.accepted.holds, self.joined.holds) {
            (true, _) => None,
            (false, true) => Some(&self.accepted),
            // Of a revoked provider or an expired key that is the news, joined or not.
            (false, false) if self.accepted.reason != "KeyNotPinned" => Some(&self.accepted),
            (false, false) => Some(&self.joined),
        }
    }
}

/// The decision.
#[must_use]
pub fn admission(facts: &Facts<'_>) -> Admission {
    let claim = current(facts);
    let presented = claim.map(|claim| claim.key).or(facts.before.presented);
    Admission {
        presented,
        joined: joined(facts, claim, presented),
        accepted: accepted(facts, presented),
        pin: pin(facts),
        holds_until: holds_until(facts),
    }
}

/// The claim that counts: of the newest token if that was used, else the latest.
fn current<'a>(facts: &'a Facts<'_>) -> Option<&'a Claim> {
    let of_token = |claim: &&Claim| facts.token.as_ref().is_some_and(|token| token.hash == claim.token);
    facts.claims.iter().find(of_token).or_else(|| {
        // The key breaks ties, so that two looks never differ.
        facts.claims.iter().max_by_key(|claim| (claim.at, claim.key.to_hex()))
    })
}

fn joined(facts: &Facts<'_>, claim: Option<&Claim>, presented: Option<Digest>) -> Verdict {
    let name = facts.name;
    if let Some(claim) = claim {
        return Verdict::yes(
            "KeyPresented",
            format!("key {} came with a join token at {}", claim.key, claim.at),
        );
    }
    if let Some(key) = presented {
        return Verdict::yes("KeyPresented", format!("key {key} came with an earlier join token"));
    }
    let make = format!("`muster provider create-token {name}`");
    match &facts.token {
        None => Verdict::no("NoToken", format!("nobody was invited yet: {make} makes a join token")),
        Some(token) if token.expires > facts.now => {
            let until = token.expires;
            Verdict::no(
                "TokenIssued",
                format!("a join token is valid until {until}; no agent has come with it yet"),
            )
        }
        Some(token) => {
            let then = token.expires;
            Verdict::no(
                "TokenExpired",
                format!("the join token expired at {then}, unused: {make} makes another"),
            )
        }
    }
}

fn accepted(facts: &Facts<'_>, presented: Option<Digest>) -> Verdict {
    let name = facts.name;
    if facts.scheduling == Scheduling::Revoked {
        return Verdict::no("Revoked", "spec.scheduling is Revoked: no key is accepted");
    }
    let valid = |pinned: &&Pinned| pinned.until.is_none_or(|until| until > facts.now);
    let is_presented = |pinned: &&Pinned| Some(pinned.key) == presented;
    let waits = |key: Digest| {
        let full = if facts.keys.len() >= MAX_KEYS { " --replace" } else { "" };
        format!(
            "compare its fingerprint with what the provider's `muster agent fingerprint` shows, then: \
             muster provider accept {name} --fingerprint {key}{full}"
        )
    };
    // The presented key, if it is let in; else any that is: during a rotation the agent works under its old one.
    let held = facts.keys.iter().filter(valid).find(is_presented).or_else(|| facts.keys.iter().find(valid));
    if let Some(held) = held {
        let also = match presented.filter(|key| *key != held.key) {
            Some(key) => format!("; key {key} was presented as well and is not accepted: {}", waits(key)),
            None => String::new(),
        };
        return Verdict::yes("KeyPinned", format!("key {} is in spec.acceptedKeys{also}", held.key));
    }
    let expired = |pinned: &Pinned| {
        let then = pinned.until.unwrap_or(facts.now);
        let message = format!(
            "key {} in spec.acceptedKeys expired at {then}; raise its notAfter, or let the provider join with another key: \
             muster provider create-token {name}",
            pinned.key
        );
        Verdict::no("KeyExpired", message)
    };
    let Some(key) = presented else {
        return facts.keys.first().map_or_else(
            || Verdict::no("KeyNotPinned", "spec.acceptedKeys is empty: no agent is let in"),
            expired,
        );
    };
    if let Some(pinned) = facts.keys.iter().find(is_presented) {
        return expired(pinned);
    }
    if was_accepted(facts, key) {
        let message =
            format!("key {key} is no longer in spec.acceptedKeys; to let it in again: {}", waits(key));
        return Verdict::no("KeyNotPinned", message);
    }
    Verdict::no("WaitingForAdmin", format!("key {key} waits; {}", waits(key)))
}

/// Whether somebody took the key out again, which is another matter than not having looked at it yet.
fn was_accepted(facts: &Facts<'_>, key: Digest) -> bool {
    let same = facts.before.presented == Some(key);
    let by_hub =
        facts.claims.iter().any(|claim| claim.key == key && Some(claim.token) == facts.before.pinned_for);
    by_hub || (same && facts.before.accepted == Was::Accepted)
}

fn pin(facts: &Facts<'_>) -> Option<Pin> {
    if matches!(facts.scheduling, Scheduling::Revoked | Scheduling::Deleting) {
        return None;
    }
    let token = facts.token.as_ref().filter(|token| token.accept == Accept::Auto)?;
    let claim = facts.claims.iter().find(|claim| claim.token == token.hash)?;
    // Both times are the gateway's judgement of the admin's word; a claim after the end is none.
    if claim.at > token.expires || facts.before.pinned_for == Some(token.hash) {
        return None;
    }
    if facts.keys.iter().any(|pinned| pinned.key == claim.key) {
        return Some(Pin { token: token.hash, key: None });
    }
    // No room: a person must say which key goes. The condition says how.
    (facts.keys.len() < MAX_KEYS).then_some(Pin { token: token.hash, key: Some(claim.key) })
}

fn holds_until(facts: &Facts<'_>) -> Option<Timestamp> {
    let token = facts.token.as_ref().map(|token| token.expires);
    let keys = facts.keys.iter().filter_map(|pinned| pinned.until);
    keys.chain(token).filter(|time| *time > facts.now).min()
}

#[cfg(test)]
mod tests;
