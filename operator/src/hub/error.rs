//! Why one look at an object could not be finished. All of these are tried again; what a person must change becomes a
//! condition instead.
use crate::runtime::blobdir::PutError;
use crate::runtime::client::ClientError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The store.
    #[error("store: {0}")]
    Store(#[from] std::io::Error),
    /// The store did not take a blob.
    #[error("store: {0}")]
    Put(#[from] PutError),
    /// The hub's own state.
    #[error(transparent)]
    State(#[from] super::state::StateError),
    /// Something could not be logged.
    #[error(transparent)]
    Ledger(#[from] super::ledger::LedgerError),
    /// An envelope could not be made: a fault of this program.
    #[error("envelope: {0}")]
    Seal(#[from] muster_core::envelope::SealError),
    /// Not JSON: a fault of this program.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An object lacks what every stored object has.
    #[error("{0}: no {1}")]
    Incomplete(&'static str, &'static str),
    /// Another object has the name that this hub wants to give.
    #[error("{0} exists and is not this job's; it is left alone")]
    Foreign(String),
    /// The database is further back than it was; the hub is about to start anew on it.
    #[error("the database went back: nothing is placed before it is known what the agents hold")]
    WentBack,
    /// There is no way to the log.
    #[error("the log: {0}")]
    Log(String),
    /// A task of this process ended early.
    #[error("background task: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether someone else changed the object in between: 409, or a JSON patch whose test did not hold, which is 422
    /// without a cause. (What a schema refuses is 422 as well, and names the field.)
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let names_a_field = |status: &kube::core::Status| {
            status.details.as_ref().is_some_and(|details| !details.causes.is_empty())
        };
        match self.answer() {
            Some(status) => status.code == 409 || (status.code == 422 && !names_a_field(status)),
            None => false,
        }
    }

    /// Whether the object is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.status(), Some(404))
    }

    /// Whether the API server did not answer, or only to say that it cannot.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Api(ClientError::Timeout { .. }) => true,
            Self::Api(ClientError::Request { .. }) => {
                self.status().is_none_or(|code| code == 429 || code >= 500)
            }
            _ => false,
        }
    }

    fn status(&self) -> Option<u16> {
        self.answer().map(|status| status.code)
    }

    fn answer(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api(ClientError::Request { source, .. }) => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use serde_json::{Value, json};

    fn refused(code: u16, details: Value) -> Error {
        let status = json!({"code": code, "reason": "Invalid", "message": "m", "details": details});
        let source = Arc::new(kube::Error::Api(Box::new(serde_json::from_value(status).unwrap_or_default())));
        Error::Api(ClientError::Request { what: "patch".into(), source })
    }

    /// As kube-apiserver 1.34 answers.
    #[test]
    fn a_test_that_fails_is_a_conflict_and_a_schema_that_refuses_is_none() {
        assert!(refused(409, Value::Null).is_conflict());
        assert!(refused(422, json!({"name": "east"})).is_conflict());
        let causes =
            json!([{"reason": "FieldValueTooMany", "message": "too many", "field": "spec.acceptedKeys"}]);
        assert!(!refused(422, json!({"name": "east", "causes": causes})).is_conflict());
        assert!(!refused(403, Value::Null).is_conflict());
    }
}
