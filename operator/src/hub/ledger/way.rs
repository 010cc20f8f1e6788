//! How the log is reached. A trait, so that the rest can be tested without a gateway.
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use muster_proof::key::SigningKey;

use crate::hub::log;
use crate::log::client::LogClient;
use crate::runtime::fence::Fence;

/// Where the log is, and its verifier key as C2SP writes it.
pub type Found = (Arc<dyn LogClient>, String);

/// See the module.
pub trait Way: Send + Sync {
    /// A client of the log as the hub whose key this is.
    fn connect<'a>(&'a self, key: &'a SigningKey) -> BoxFuture<'a, Result<Found, String>>;
}

/// As the gateway publishes itself.
pub struct Published {
    client: Client,
    fence: Option<Fence>,
}

impl Published {
    /// Found with this client; records are sent while the fence lets them, if there is one.
    #[must_use]
    pub fn new(client: Client, fence: Option<Fence>) -> Self {
        Self { client, fence }
    }
}

impl Way for Published {
    fn connect<'a>(&'a self, key: &'a SigningKey) -> BoxFuture<'a, Result<Found, String>> {
        Box::pin(async move {
            let found = log::connect(&self.client, key, self.fence.clone()).await;
            let (log, vkey) = found.map_err(|error| error.to_string())?;
            let vkey = vkey.ok_or("the gateway has not published its log yet; is it of an older version?")?;
            Ok((Arc::new(log) as Arc<dyn LogClient>, vkey))
        })
    }
}
