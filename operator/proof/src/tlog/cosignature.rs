//! What a witness adds to a checkpoint: c2sp.org/tlog-cosignature, version 1 with Ed25519.
//!
//! ```text
//! signed    = "cosignature/v1\n" "time <seconds>\n" <the checkpoint's text>
//! signature = u64be seconds || Ed25519 signature (64 bytes)
//! ```
//!
//! It says: at this time this was the largest tree of that log that the witness had seen, and it continues
//! all that the witness had seen before. The seconds are since 1970, below 2^63.

use super::MAX_SIZE;
use super::checkpoint::SignedCheckpoint;
use super::note::{self, Algorithm, NoteKey, Signature, VerifierKey};

/// Why a cosignature is not made, counted or added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The wrong kind of key, a signature that does not verify, or a note over its limits.
    #[error(transparent)]
    Note(#[from] note::Error),
    /// Seconds of 2^63 and above.
    #[error("the time of a cosignature must be below 2^63 seconds, got {0}")]
    Time(u64),
}

impl SignedCheckpoint {
    /// The signature line of a witness that has checked and stored this checkpoint; `time` is now, in
    /// seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Note`] for a log's key, [`Error::Time`].
    pub fn cosign(&self, key: &NoteKey, time: u64) -> Result<Signature, Error> {
        key.public().must_be(Algorithm::CosignatureV1)?;
        if time > MAX_SIZE {
            return Err(Error::Time(time));
        }
        let signature = key.sign(&message(self.note().text(), time));
        Ok(key.signature([&time.to_be_bytes()[..], &signature].concat()))
    }

    /// When `witness` last cosigned, in seconds since 1970; `None` if it did not. Every signature in its
    /// name must verify.
    ///
    /// # Errors
    /// [`Error::Note`] for a log's key and for a signature in the witness's name that is not its own.
    pub fn cosigned_by(&self, witness: &VerifierKey) -> Result<Option<u64>, Error> {
        witness.must_be(Algorithm::CosignatureV1)?;
        let mut newest = None;
        for signature in self.note().signatures().iter().filter(|signature| signature.is_by(witness)) {
            let time =
                verify(self.note().text(), signature, witness).ok_or_else(|| witness.bad_signature())?;
            newest = newest.max(Some(time));
        }
        Ok(newest)
    }

    /// Takes over the lines of `witnesses` from a witness's answer. For each witness one line stays, the one
    /// with the newest time; lines of unknown keys are left out. Returns how many lines were taken.
    ///
    /// # Errors
    /// [`Error::Note`] if a line in a witness's name does not verify for this checkpoint, or if the note
    /// would be over its limits; the checkpoint is then as it was.
    pub fn merge(&mut self, lines: &[Signature], witnesses: &[VerifierKey]) -> Result<usize, Error> {
        let mut note = self.note().clone();
        let mut taken = 0;
        for line in lines {
            let Some(witness) = witnesses.iter().find(|witness| line.is_by(witness)) else { continue };
            witness.must_be(Algorithm::CosignatureV1)?;
            let time = verify(note.text(), line, witness).ok_or_else(|| witness.bad_signature())?;
            // A line in its name that is not its own has no time, and makes room.
            let kept = note.signatures().iter().filter(|kept| kept.is_by(witness));
            if kept.filter_map(|kept| verify(note.text(), kept, witness)).max() < Some(time) {
                note.remove(witness);
                note.push(line.clone())?;
                taken += 1;
            }
        }
        self.set_note(note);
        Ok(taken)
    }
}

/// The time of a cosignature of `witness` over `text`, if it is one.
fn verify(text: &str, signature: &Signature, witness: &VerifierKey) -> Option<u64> {
    let (time, signature) = signature.bytes().split_first_chunk::<8>()?;
    let time = u64::from_be_bytes(*time);
    (time <= MAX_SIZE && witness.verify(&message(text, time), signature)).then_some(time)
}

fn message(text: &str, time: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

#[cfg(test)]
mod tests;
