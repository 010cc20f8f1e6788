//! What a turn begins with and what comes of it.
use std::time::Duration;

use crate::agent::member::MemberError;

/// Why a turn did not finish; it is taken again.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("state directory: {0}")]
    State(#[from] std::io::Error),
}

/// What the watches of Jobs and pods have told when a turn begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Something that may be about this unit.
    News,
    /// Nothing since the last turn: it is taken because of the time, and the watches may hang.
    Before,
    /// Nothing that is believed.
    Nothing,
}

/// What comes after a turn.
pub(super) enum Next {
    /// Another turn, at the latest after this.
    Again(Duration),
    /// Another turn at once, that lists: what follows from what the watches told is not done because of a clock alone.
    Listed,
    /// The unit is gone and nothing of it is left.
    Forget,
}
