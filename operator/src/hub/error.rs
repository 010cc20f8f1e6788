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
    /// A task of this process ended early.
    #[error("background task: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether someone else changed the object in between.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.status(), Some(409))
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
        match self {
            Self::Api(ClientError::Request { source, .. }) => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }
}
