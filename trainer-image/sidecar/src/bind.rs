//! Who this sidecar is, and its key made known to the relay: asked once, and again when the relay has forgotten.

use muster_proof::key::SigningKey;
use muster_trainer::binding;
use muster_trainer::protocol::SelfAnswer;
use muster_trainer::relay::{Relay, Unavailable};

/// The relay, and the key that speaks to it.
#[derive(Debug)]
pub struct Binder {
    relay: Relay,
    key: SigningKey,
    bound: bool,
    /// Whether it was bound for what is asked now.
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
        Self { relay, key, bound: false, fresh: false }
    }

    /// The relay.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Binds the key, if that was not done before.
    ///
    /// # Errors
    /// [`Unbound`].
    pub fn ensure(&mut self) -> Result<(), Unbound> {
        self.fresh = !self.bound;
        if !self.bound {
            self.bind()?;
            self.bound = true;
        }
        Ok(())
    }

    /// The relay says that no key is bound, or not this one. Whether binding it anew may help: an agent that lost its
    /// memory needs that, one that has just bound it means something else.
    pub fn disowned(&mut self) -> bool {
        self.bound = false;
        !self.fresh
    }

    fn bind(&self) -> Result<(), Unbound> {
        let answer = self.relay.whoami()?;
        let me: SelfAnswer = match answer.status {
            200 => answer.json()?,
            410 => return Err(Unbound::Over),
            403 => return Err(Unbound::Refused(answer.unexpected().to_string())),
            _ => return Err(answer.unexpected().into()),
        };
        let answer = self.relay.bind_key(|token| binding::bind(&self.key, token))?;
        match answer.status {
            200 | 201 => {
                let (SelfAnswer { unit, attempt, rank }, key) = (me, self.key.key_id());
                eprintln!("muster-sidecar: {unit} attempt {attempt} rank {rank}: bound key {key}");
                Ok(())
            }
            410 => Err(Unbound::Over),
            400 | 403 | 409 => Err(Unbound::Refused(answer.unexpected().to_string())),
            _ => Err(answer.unexpected().into()),
        }
    }
}
