//! The member's API: Jobs and pods of a unit, and whose token a pod shows. The only module with the member's client.
use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, ResourceExt};
use muster_api::names::labels;
use muster_core::attempt::{self, GRACE_SECONDS, PodState};
use muster_core::envelope::Payload;

use super::children::Children;
use super::logs::{self, Log, Part, WorkerLogs};
use super::observe;
use super::relay::identity::{ReviewError, Reviewer, Worker};
use super::render::{self, MANAGED_BY, SERVICE_ACCOUNT, Site, TRAINER, UNIT_UID};
use crate::runtime::client::{ClientError, is_refusal};
use crate::runtime::kueue;

/// One request may take this long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why the member's API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// It refused, or could not be reached.
    #[error("member: {what}: {source}")]
    Api {
        /// What was asked.
        what: &'static str,
        /// kube's reason.
        #[source]
        source: Box<kube::Error>,
    },
    /// The same, of a list of Jobs and pods.
    #[error("member: {0}")]
    List(#[from] ClientError),
    /// It did not answer.
    #[error("member: {0}: no answer in time")]
    Timeout(&'static str),
    /// Something else has the name of our Job. It is not ours to touch.
    #[error("Job {0} exists and is not this unit's; remove it, or let the hub place the job anew")]
    Foreign(String),
}

impl MemberError {
    /// What the API server said, without what it was asked.
    #[must_use]
    pub fn said(&self) -> String {
        match self {
            Self::Api { source, .. } if let kube::Error::Api(status) = &**source => status.message.clone(),
            other => other.to_string(),
        }
    }
}

/// A client for one namespace.
pub struct Member {
    client: Client,
    /// The same API, for logs that are followed.
    patient: Client,
    site: Site,
    /// What it has of units.
    pub children: Children,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Member {
    /// Jobs are made in `site.namespace`. `patient` is a client of the same cluster that waits for silent logs.
    #[must_use]
    pub fn new(client: Client, patient: Client, site: Site) -> Self {
        Self { children: Children::new(&client, &site.namespace), client, patient, site }
    }

    /// Where things can be ended and nothing is made: before it is known who we are.
    #[must_use]
    pub fn to_end(client: Client, namespace: &str) -> Self {
        let nothing = String::new;
        let site = Site {
            namespace: namespace.to_owned(),
            audience: nothing(),
            relay_url: nothing(),
            relay_ca: nothing(),
        };
        Self::new(client.clone(), client, site)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.site.namespace)
    }

    /// Why a Job cannot make its pods, from its newest FailedCreate event.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn failed_create(&self, job_uid: &str) -> Result<Option<String>, MemberError> {
        let fields = format!("involvedObject.uid={job_uid},reason=FailedCreate");
        let events = self.api::<Event>();
        let events = within("list events", events.list(&ListParams::default().fields(&fields))).await?;
        let newest = events.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(newest.and_then(|event| event.message).map(|text| observe::create_problem(&text)))
    }

    /// What a suspended Job waits for, as the Workload says that Kueue has made of it.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn queued(&self, job_uid: &str) -> Result<String, MemberError> {
        let workloads = kueue::workloads(self.client.clone(), &self.site.namespace);
        let of_job = ListParams::default().labels(&format!("{}={job_uid}", kueue::JOB_UID));
        match within("list workloads", workloads.list(&of_job)).await {
            Ok(list) => Ok(observe::queued(list.items.first())),
            Err(MemberError::Api { source, .. }) if is_code(&source, 404) => Ok(observe::NO_KUEUE.to_owned()),
            Err(error) => Err(error),
        }
    }

    /// Makes the Job of an attempt. It is fine if it is there already and is this unit's.
    ///
    /// # Errors
    /// [`MemberError::Foreign`] if the name is taken by something else.
    pub async fn create(
        &self,
        payload: &Payload,
        unit_uid: &str,
        attempt: i64,
        queue: Option<&str>,
    ) -> Result<(), MemberError> {
        let job = render::job(&self.site, payload, unit_uid, attempt, queue);
        let api = self.api::<Job>();
        match within("create job", api.create(&PostParams::default(), &job)).await {
            Ok(made) => {
                self.children.made(&made);
                return Ok(());
            }
            Err(MemberError::Api { source, .. }) if is_code(&source, 409) => {}
            Err(error) => {
                if !matches!(&error, MemberError::Api { source, .. } if is_refusal(source)) {
                    self.children.may_have_made();
                }
                return Err(error);
            }
        }
        let name = job.name_any();
        let there = within("get job", api.get(&name)).await?;
        self.children.made(&there);
        let ours = there.labels().get(labels::UNIT) == Some(&payload.name)
            && there.labels().get(labels::MANAGED_BY).map(String::as_str) == Some(MANAGED_BY)
            && there.annotations().get(UNIT_UID).map(String::as_str) == Some(unit_uid);
        if ours { Ok(()) } else { Err(MemberError::Foreign(name)) }
    }

    /// Deletes a Job, its pods in the background. Gone or replaced is as good.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn delete_job(&self, name: &str, uid: &str) -> Result<(), MemberError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(same(uid)),
            ..DeleteParams::default()
        };
        settled(within("delete job", self.api::<Job>().delete(name, &params)).await.map(|_| ()))
    }

    /// Deletes a pod with a short grace. Gone or replaced is as good.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn delete_pod(&self, name: &str, uid: &str) -> Result<(), MemberError> {
        let params = DeleteParams {
            grace_period_seconds: u32::try_from(GRACE_SECONDS).ok(),
            preconditions: Some(same(uid)),
            ..DeleteParams::default()
        };
        settled(within("delete pod", self.api::<Pod>().delete(name, &params)).await.map(|_| ()))
    }

    /// Names of all units that have Jobs or pods here, remembered or not.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn unit_names(&self) -> Result<BTreeSet<String>, MemberError> {
        let (jobs, pods) = self.of_units().await?;
        let names = jobs.iter().map(unit_of).chain(pods.iter().map(unit_of));
        Ok(names.flatten().collect())
    }

    /// Jobs and pods of all units.
    async fn of_units(&self) -> Result<(Vec<Job>, Vec<Pod>), MemberError> {
        let ours =
            ListParams::default().labels(&format!("{}={MANAGED_BY},{}", labels::MANAGED_BY, labels::UNIT));
        let (jobs, pods) = (self.api::<Job>(), self.api::<Pod>());
        let (jobs, pods) =
            tokio::try_join!(within("list jobs", jobs.list(&ours)), within("list pods", pods.list(&ours)))?;
        Ok((jobs.items, pods.items))
    }

    /// Ends whatever there is of any unit, and says how much that was.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn end_all(&self) -> Result<usize, MemberError> {
        let (jobs, pods) = self.of_units().await?;
        let of_job = |job: &Job| (job.name_any(), job.uid().unwrap_or_default());
        for (name, uid) in jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none()).map(of_job) {
            self.delete_job(&name, &uid).await?;
        }
        let of_pod = |pod: &Pod| (pod.name_any(), pod.uid().unwrap_or_default());
        for (name, uid) in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(of_pod) {
            self.delete_pod(&name, &uid).await?;
        }
        Ok(jobs.len() + pods.len())
    }

    /// Version of the member's Kubernetes.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn version(&self) -> Result<String, MemberError> {
        Ok(within("get version", self.client.apiserver_version()).await?.git_version)
    }

    /// The ResourceQuotas of the namespace.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn quotas(&self) -> Result<Vec<ResourceQuota>, MemberError> {
        let api = self.api::<ResourceQuota>();
        Ok(within("list resourcequotas", api.list(&ListParams::default())).await?.items)
    }

    async fn review_token(&self, token: &str) -> Result<Worker, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.site.audience.clone()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let unavailable = |error: MemberError| ReviewError::Unavailable(error.to_string());
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = within("create tokenreview", api.create(&PostParams::default(), &review)).await;
        let status = answer.map_err(unavailable)?.status.unwrap_or_default();
        let ours = status.audiences.is_some_and(|audiences| audiences.contains(&self.site.audience));
        let user = status.user.filter(|_| status.authenticated == Some(true) && ours);
        let user =
            user.ok_or_else(|| ReviewError::Refused("the token is not one for this relay".to_owned()))?;
        let account = format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", self.site.namespace);
        let (Some(name), Some(uid), true) = (
            extra(&user, "authentication.kubernetes.io/pod-name"),
            extra(&user, "authentication.kubernetes.io/pod-uid"),
            user.username.as_deref() == Some(&account),
        ) else {
            return Err(ReviewError::Refused(format!("the token is not one of a pod of {account}")));
        };
        let pod = match within("get pod", self.api::<Pod>().get_opt(&name)).await {
            Ok(pod) => pod.filter(|pod| pod.uid().as_deref() == Some(&uid)),
            Err(error) => return Err(unavailable(error)),
        };
        let pod = pod.ok_or_else(|| ReviewError::Refused(format!("pod {name} with uid {uid} is gone")))?;
        worker_of(&pod, uid)
            .ok_or_else(|| ReviewError::Refused(format!("pod {name} is not a worker of a unit")))
    }
}

impl WorkerLogs for Member {
    fn of_worker<'a>(
        &'a self,
        names: &'a [&'a str],
        rank: u32,
        part: Part,
    ) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async move {
            let (_, pods) = self.children.listed(names).await?;
            let newest = pods.iter().map(|pod| pod.attempt).max();
            let wrote = |pod: &&attempt::Pod| {
                Some(pod.attempt) == newest
                    && pod.rank == i64::from(rank)
                    && !matches!(pod.state, PodState::Waiting(_))
            };
            // One pod of a rank writes; an older one may still be listed.
            match pods.iter().filter(wrote).max_by_key(|pod| pod.state == PodState::Running) {
                Some(pod) => self.of_pod(&pod.name, part).await,
                None => Ok(None),
            }
        })
    }

    fn of_pod<'a>(&'a self, pod: &'a str, part: Part) -> BoxFuture<'a, Result<Option<Log>, MemberError>> {
        Box::pin(async move {
            let params = LogParams {
                container: Some(TRAINER.to_owned()),
                follow: part.follow,
                tail_lines: part.tail_lines.map(i64::from),
                limit_bytes: part.limit_bytes.and_then(|limit| i64::try_from(limit).ok()),
                ..LogParams::default()
            };
            let api: Api<Pod> = Api::namespaced(self.patient.clone(), &self.site.namespace);
            match within("get pods/log", api.log_stream(pod, &params)).await {
                Ok(reader) => Ok(Some(logs::pieces(reader))),
                // 404: the pod is gone; 400: its container has not started.
                Err(MemberError::Api { source, .. }) if is_code(&source, 404) || is_code(&source, 400) => {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        })
    }
}

impl Reviewer for Member {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Worker, ReviewError>> {
        Box::pin(self.review_token(token))
    }
}

fn worker_of(pod: &Pod, uid: String) -> Option<Worker> {
    let managed = pod.labels().get(labels::MANAGED_BY).map(String::as_str) == Some(MANAGED_BY);
    if !managed {
        return None;
    }
    Some(Worker {
        unit: unit_of(pod)?,
        attempt: observe::number(pod, labels::ATTEMPT)?,
        rank: observe::rank(pod)?,
        pod: uid,
        address: observe::address(pod),
    })
}

fn extra(user: &UserInfo, key: &str) -> Option<String> {
    user.extra.as_ref()?.get(key)?.first().cloned()
}

fn unit_of(object: &impl ResourceExt) -> Option<String> {
    object.labels().get(labels::UNIT).cloned()
}

fn same(uid: &str) -> Preconditions {
    Preconditions { uid: Some(uid.to_owned()), resource_version: None }
}

/// 404: it is gone. 409: another object has its name now.
fn settled(result: Result<(), MemberError>) -> Result<(), MemberError> {
    match result {
        Err(MemberError::Api { source, .. }) if is_code(&source, 404) || is_code(&source, 409) => Ok(()),
        other => other,
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

async fn within<T>(
    what: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, MemberError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| MemberError::Api { what, source: Box::new(source) }),
        Err(_) => Err(MemberError::Timeout(what)),
    }
}
