//! Units that agents offer after the hub's database was restored (docs/spec/gateway.md section 5), and what the hub answers.
//! The gateway writes the one, the hub the other. Of a unit the first offer stays: its envelope was verified.
//!
//! ```text
//! recover/<incarnation>/<provider>/offers/<unit>     one line: digest of the envelope's blob
//! recover/<incarnation>/<provider>/answers/<unit>    `stop`, or `as <unit>`
//! recover/<incarnation>/<provider>/complete          the agent has offered all that it holds
//! ```
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use muster_proof::Digest;

use super::catalogue::is_dns_label;
use super::{Store, damaged, digest_line};
use crate::runtime::blobdir::PutError;

/// No envelope of a unit is longer: 6144 bytes of payload in base64, and signatures.
pub const MAX_ENVELOPE: u64 = 16 * 1024;
const ROOT: &str = "recover";

/// A unit that is offered, and whose agent waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who holds it.
    pub provider: String,
    /// Its name.
    pub unit: String,
    /// Its envelope's blob.
    pub envelope: Digest,
}

/// What the hub says to an offer; it never changes its mind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It must stop.
    Stop,
    /// The unit of this name continues it.
    As(String),
}

impl Store {
    /// Remembers an offer to the hub of this incarnation, unless the unit is offered already.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn record_offer(
        &self,
        incarnation: i64,
        provider: &str,
        unit: &str,
        envelope: Vec<u8>,
    ) -> Result<(), PutError> {
        let key = key(incarnation, provider, "offers", unit)?;
        if self.backend.read(&key).await?.is_some() {
            return Ok(());
        }
        // The blob first: the name must lead somewhere.
        let digest = self.put_bytes(envelope).await?;
        self.backend.swap(&key, None, &digest_line(&digest)).await?;
        Ok(())
    }

    /// The offers to this incarnation that have no answer.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn open_offers(&self, incarnation: i64) -> io::Result<Vec<Offer>> {
        let mut open = Vec::new();
        for provider in self.backend.folders(&format!("{ROOT}/{incarnation}")).await? {
            let folder = |what| format!("{ROOT}/{incarnation}/{provider}/{what}");
            let answered = self.backend.list(&folder("answers")).await?;
            let answered: BTreeSet<String> = answered.into_iter().map(|entry| entry.name).collect();
            for entry in self.backend.list(&folder("offers")).await? {
                let key = format!("{}/{}", folder("offers"), entry.name);
                if !answered.contains(&entry.name)
                    && let Some(envelope) = self.read_digest(&key).await?
                {
                    open.push(Offer { provider: provider.clone(), unit: entry.name, envelope });
                }
            }
        }
        Ok(open)
    }

    /// What the hub has said to an offer, if it has.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend but absence.
    pub async fn offer_answer(
        &self,
        incarnation: i64,
        provider: &str,
        unit: &str,
    ) -> io::Result<Option<Answer>> {
        let key = key(incarnation, provider, "answers", unit)?;
        let Some(line) = self.backend.read(&key).await? else { return Ok(None) };
        match line.trim_end().split_once(' ') {
            Some(("as", name)) if is_dns_label(name) => Ok(Some(Answer::As(name.to_owned()))),
            None if line.trim_end() == "stop" => Ok(Some(Answer::Stop)),
            _ => Err(damaged(&key, "`stop` or `as <unit>`")),
        }
    }

    /// Answers an offer.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn answer_offer(&self, incarnation: i64, offer: &Offer, answer: &Answer) -> io::Result<()> {
        let key = key(incarnation, &offer.provider, "answers", &offer.unit)?;
        let line = match answer {
            Answer::Stop => "stop\n".to_owned(),
            Answer::As(name) => format!("as {name}\n"),
        };
        self.backend.write(&key, &line).await
    }

    /// Remembers that an agent has offered all that it holds.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend.
    pub async fn complete_offers(&self, incarnation: i64, provider: &str) -> io::Result<()> {
        self.backend.write(&complete(incarnation, provider)?, "complete\n").await
    }

    /// Whether an agent has offered all that it holds.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, any other error of the backend but absence.
    pub async fn has_offered_all(&self, incarnation: i64, provider: &str) -> io::Result<bool> {
        Ok(self.backend.read(&complete(incarnation, provider)?).await?.is_some())
    }

    /// Forgets what was offered to every other incarnation than this one.
    ///
    /// # Errors
    /// Any error of the backend but absence.
    pub async fn forget_offers(&self, but_to: i64) -> io::Result<()> {
        for name in self.backend.folders(ROOT).await? {
            if name != but_to.to_string() {
                self.backend.remove_tree(&format!("{ROOT}/{name}")).await?;
            }
        }
        Ok(())
    }

    /// Garbage collection spares the envelopes that the hub has still to read.
    pub(super) async fn mark_offers(&self, live: &mut BTreeSet<Digest>) -> io::Result<()> {
        for incarnation in self.backend.folders(ROOT).await? {
            for provider in self.backend.folders(&format!("{ROOT}/{incarnation}")).await? {
                let folder = format!("{ROOT}/{incarnation}/{provider}/offers");
                for entry in self.backend.list(&folder).await? {
                    live.extend(self.read_digest(&format!("{folder}/{}", entry.name)).await?);
                }
            }
        }
        Ok(())
    }
}

fn key(incarnation: i64, provider: &str, what: &str, unit: &str) -> io::Result<String> {
    Ok(format!("{}/{what}/{}", folder(incarnation, provider)?, label(unit, "a WorkUnit")?))
}

fn complete(incarnation: i64, provider: &str) -> io::Result<String> {
    Ok(format!("{}/complete", folder(incarnation, provider)?))
}

fn folder(incarnation: i64, provider: &str) -> io::Result<String> {
    Ok(format!("{ROOT}/{incarnation}/{}", label(provider, "a provider")?))
}

fn label<'a>(text: &'a str, what: &str) -> io::Result<&'a str> {
    if is_dns_label(text) {
        return Ok(text);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, format!("{text:?} is not the name of {what}")))
}
