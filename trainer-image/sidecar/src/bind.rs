//! Who this sidecar is, and its key made known to the relay: asked once, and again when the relay has forgotten.

use muster_proof::key::SigningKey;
use muster_trainer::binding::{self, Announcement};
use muster_trainer::protocol::{CheckpointNotice, SelfAnswer};
use muster_trainer::relay::{Relay, Unavailable};

use crate::upload::Sealed;

/// The relay, and the key that speaks to it.
#[derive(Debug)]
pub struct Binder {
    relay: Relay,
    key: SigningKey,
    bound: Option<SelfAnswer>,
    /// Whether the last notice was the first since the key was bound.
    fresh: bool,
}

/// Why the key counts for nothing at the relay.
#[derive(Debug)]
pub enum Unbound {
    /// The attempt is over.
    Over,
    /// It will not be bound: there is another, or another pod.
    Refused(String),
    /// Try again later.
    Later(Unavailable),
}

impl From<Unavailable> for Unbound {
    fn from(error: Unavailable) -> Self {
        Self::Later(error)
    }
}

impl Binder {
    /// Nothing is asked yet.
    pub fn new(relay: Relay, key: SigningKey) -> Self {
        Self { relay, key, bound: None, fresh: false }
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The notice of a checkpoint, signed by a key that the relay has bound.
    ///
    /// # Errors
    /// [`Unbound`].
    pub fn announce(&mut self, sealed: &Sealed) -> Result<CheckpointNotice, Unbound> {
        self.fresh = self.bound.is_none();
        let me = match self.bound.take() {
            Some(me) => me,
            None => self.bind()?,
        };
        let said = Announcement {
            unit: &me.unit,
            attempt: me.attempt,
            step: sealed.step,
            manifest: sealed.manifest,
            state_root: sealed.state_root,
        };
        let notice = said.sign(&self.key);
        self.bound = Some(me);
        Ok(notice)
    }

    /// The relay says that the last notice's key is not bound. Whether binding it anew may help: an agent that lost its
    /// memory needs that, one that has just bound it means something else.
    pub fn disowned(&mut self) -> bool {
        self.bound = None;
        !self.fresh
    }

    fn bind(&self) -> Result<SelfAnswer, Unbound> {
        let answer = self.relay.whoami()?;
        let me: SelfAnswer = match answer.status {
            200 => answer.json()?,
            410 => return Err(Unbound::Over),
            403 => return Err(Unbound::Refused(answer.unexpected().to_string())),
            _ => return Err(answer.unexpected().into()),
        };
        let answer = self.relay.bind_key(|token| binding::bind(&self.key, token))?;
        match answer.status {
            200 | 201 => Ok(me),
            410 => Err(Unbound::Over),
            400 | 403 | 409 => Err(Unbound::Refused(answer.unexpected().to_string())),
            _ => Err(answer.unexpected().into()),
        }
    }
}
