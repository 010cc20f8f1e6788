//! Whether a user may, and which job he means. What he may not know of, he hears nothing about.
use std::sync::Arc;

use axum::http::StatusCode;

use super::access::{Authorizer, Refusal, User, Wanted};
use super::users::{Jobs, is_object_name};
use crate::store::{Namespace, is_dns_label};

/// Asks for all routes of users.
pub struct Door<A, J> {
    authorizer: Arc<A>,
    jobs: Arc<J>,
}

impl<A, J> Clone for Door<A, J> {
    fn clone(&self) -> Self {
        Self { authorizer: self.authorizer.clone(), jobs: self.jobs.clone() }
    }
}

impl<A: Authorizer, J: Jobs> Door<A, J> {
    /// Over these answers.
    pub fn new(authorizer: Arc<A>, jobs: Arc<J>) -> Self {
        Self { authorizer, jobs }
    }

    /// Whether the user may do this in the namespace.
    ///
    /// # Errors
    /// 400, 403, 503.
    pub async fn may(
        &self,
        user: &User,
        verb: &str,
        subresource: &str,
        namespace: &str,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        if !is_dns_label(namespace) {
            let text = "a namespace is a DNS label: lower-case letters, digits and '-', at most 63";
            return Err(Refusal::bad_request(text));
        }
        self.authorizer.may(user, &Wanted { verb, subresource, namespace, name }).await
    }

    /// The namespace of this name that is there now: what an earlier one had is not its own.
    ///
    /// # Errors
    /// 404 `NamespaceNotFound`, 503.
    pub async fn living(&self, name: &str) -> Result<Namespace, Refusal> {
        self.jobs.namespace(name).await?.ok_or_else(|| {
            let text = format!("there is no namespace {name}; look for the right name, or create it first");
            Refusal::new(StatusCode::NOT_FOUND, "NamespaceNotFound", text)
        })
    }

    /// The job's uid, for somebody who may `get` this subresource of it.
    ///
    /// # Errors
    /// 400, 403, 404 `JobNotFound`, 503.
    pub async fn job(
        &self,
        user: &User,
        subresource: &str,
        namespace: &str,
        job: &str,
    ) -> Result<String, Refusal> {
        if !is_object_name(job) {
            return Err(Refusal::bad_request("this is no name of a TrainingJob"));
        }
        self.may(user, "get", subresource, namespace, Some(job)).await?;
        let uid = self.jobs.uid(namespace, job).await?;
        uid.ok_or_else(|| {
            let text = format!("there is no TrainingJob {namespace}/{job}");
            Refusal::new(StatusCode::NOT_FOUND, "JobNotFound", text)
        })
    }
}
