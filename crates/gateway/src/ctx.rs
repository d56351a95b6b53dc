//! What an operation works with: the shared parts of the gateway, and one request's head, caller
//! and bucket, with the retries that an old view of the bucket needs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use granary_datapath::{DataPath, WriteTarget};
use granary_meta_api::pb::rejection::Reason;
use granary_meta_api::{Command, Meta, pb};
use granary_oss::address::AddressStyle;
use granary_oss::xml::Owner;
use granary_oss::{ErrorCode, OssError, escape};
use granary_policy::{Action, Caller};
use granary_runtime::Runtime;
use granary_types::{AccountId, BucketName, ObjectKey, StorageClass};

use crate::admission::Admission;
use crate::authn::Authenticator;
use crate::authz::{authorise, find_authorised};
use crate::buckets::{Bucket, BucketViews};
use crate::callback::Callbacks;
use crate::config::Settings;
use crate::failure;
use crate::gzip::Gzip;
use crate::head::Head;
use crate::metrics::Metrics;
use crate::throttle::Throttle;
use crate::version_id::VersionRef;

/// Times a request looks its bucket up again because a shard did not know its view.
const REFRESHES_MAX: u32 = 40;
/// Pause between them, while a bucket's deletion or configuration is being decided.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);

/// The parts of a gateway that all requests share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) runtime: Runtime,
    pub(crate) meta: Meta,
    pub(crate) datapath: DataPath,
    pub(crate) buckets: BucketViews,
    pub(crate) authenticator: Authenticator,
    pub(crate) admission: Admission,
    pub(crate) callbacks: Callbacks,
    pub(crate) gzip: Gzip,
    pub(crate) metrics: Metrics,
    /// When a line about a refused request was written last.
    pub(crate) refusals: Throttle,
}

impl Shared {
    /// An id for a request: 24 upper-case hexadecimal digits.
    pub(crate) fn new_request_id(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let mut random = [0; 12];
        self.runtime.entropy().fill(&mut random);
        let mut id = String::with_capacity(2 * random.len());
        for byte in random {
            id.push(char::from(DIGITS[usize::from(byte >> 4)]));
            id.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        id
    }

    /// A bucket as it was a moment ago.
    ///
    /// # Errors
    /// ServiceUnavailable.
    pub(crate) async fn find_bucket(
        &self,
        name: &BucketName,
    ) -> Result<Option<Arc<Bucket>>, OssError> {
        self.buckets.find(name).await.map_err(failure::of_meta)
    }

    /// The newest view of a bucket for a caller who does not own it: its owner may have closed it since
    /// the head was judged. One that was replaced or is gone stays as it was: that is for the shard to tell.
    ///
    /// # Errors
    /// ServiceUnavailable.
    pub(crate) async fn newest(
        &self,
        caller: Caller,
        bucket: &Arc<Bucket>,
    ) -> Result<Arc<Bucket>, OssError> {
        if caller.account() == Some(bucket.owner) {
            return Ok(Arc::clone(bucket));
        }
        let found = self.find_bucket(&bucket.name).await?;
        let same = found.filter(|found| found.id == bucket.id);
        Ok(same.unwrap_or_else(|| Arc::clone(bucket)))
    }
}

/// What a request is about, as far as permissions matter.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// The account's own things.
    Service,
    /// The bucket.
    Bucket,
    /// An object of the bucket.
    Object(ObjectKey, VersionRef),
}

/// Which request it is, and whose machine sent it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) request_id: String,
    pub(crate) client_ip: IpAddr,
}

/// One request, past authentication.
pub(crate) struct Ctx {
    pub(crate) shared: Arc<Shared>,
    pub(crate) origin: Origin,
    pub(crate) head: Head,
    pub(crate) caller: Caller,
    pub(crate) action: Action,
    pub(crate) subject: Subject,
    /// `None` for operations that need no bucket.
    pub(crate) bucket: Option<Arc<Bucket>>,
    /// The version that was looked up to decide on permission, with its inline bytes.
    pub(crate) found: Option<pb::VersionResult>,
}

impl Ctx {
    /// The bucket that was looked up before the operation began.
    ///
    /// # Errors
    /// NoSuchBucket, when the operation did not ask for the look-up.
    pub(crate) fn bucket(&self) -> Result<&Arc<Bucket>, OssError> {
        self.bucket
            .as_ref()
            .ok_or_else(|| OssError::new(ErrorCode::NoSuchBucket))
    }

    /// The account that asks; anonymous callers own nothing.
    pub(crate) fn account(&self) -> AccountId {
        self.caller.account().unwrap_or(AccountId(0))
    }

    /// Who owns what this request writes: the bucket's owner, whoever writes it.
    ///
    /// # Errors
    /// NoSuchBucket.
    pub(crate) fn object_owner(&self) -> Result<AccountId, OssError> {
        Ok(self.bucket()?.owner)
    }

    /// Where bytes of a new object are going.
    ///
    /// # Errors
    /// NoSuchBucket.
    pub(crate) fn write_target(
        &self,
        key: &ObjectKey,
        storage_class: StorageClass,
    ) -> Result<WriteTarget, OssError> {
        let bucket = self.bucket()?;
        Ok(WriteTarget {
            at: bucket.position(key),
            redundancy: bucket.redundancy,
            storage_class,
            continues: None,
        })
    }

    /// The current version of a key, or a named one; `None` when there is none.
    ///
    /// # Errors
    /// NoSuchBucket when the bucket has gone meanwhile; AccessDenied when it was replaced by one
    /// that the caller may not use; ServiceUnavailable.
    pub(crate) async fn find_version(
        &mut self,
        key: &ObjectKey,
        version: VersionRef,
        with_body: bool,
    ) -> Result<Option<pb::VersionResult>, OssError> {
        if let Subject::Object(subject, of) = &self.subject {
            // Deciding on permission may have looked it up already.
            if subject == key
                && *of == version
                && let Some(found) = self.found.take()
            {
                return Ok(Some(found).filter(|found| found.found));
            }
        }
        let is_subject =
            matches!(&self.subject, Subject::Object(k, v) if k == key && *v == version);
        for _ in 0..REFRESHES_MAX {
            let bucket = Arc::clone(self.bucket()?);
            let (shared, caller, action) = (&self.shared, self.caller, self.action);
            // Of the request's own object what is read is what is judged.
            let answer = match is_subject {
                true => {
                    let object = (key, version);
                    find_authorised(shared, caller, action, &bucket, object, with_body).await?
                }
                false => find_version_in(shared, &bucket, key, version, with_body).await?,
            };
            match answer {
                Some(answer) => return Ok(Some(answer).filter(|answer| answer.found)),
                None => self.refresh_bucket(&bucket).await?,
            }
        }
        Err(OssError::new(ErrorCode::ServiceUnavailable))
    }

    /// The current version of another object of the bucket that the request's own was found in, with
    /// its inline bytes, if the caller may do `action` to that one.
    ///
    /// # Errors
    /// NoSuchBucket, AccessDenied; ServiceUnavailable, also when the bucket was replaced by another
    /// one of the same name.
    pub(crate) async fn find_beside(
        &mut self,
        key: &ObjectKey,
        action: Action,
    ) -> Result<Option<pb::VersionResult>, OssError> {
        let current = VersionRef::Current;
        for _ in 0..REFRESHES_MAX {
            let bucket = Arc::clone(self.bucket()?);
            let (shared, caller) = (&self.shared, self.caller);
            let answer =
                find_authorised(shared, caller, action, &bucket, (key, current), true).await?;
            if let Some(answer) = answer {
                return Ok(Some(answer).filter(|answer| answer.found));
            }
            self.refresh_bucket(&bucket).await?;
            if self.bucket()?.id != bucket.id {
                return Err(OssError::new(ErrorCode::ServiceUnavailable)
                    .source("the bucket was replaced while an object of it was being read"));
            }
        }
        Err(OssError::new(ErrorCode::ServiceUnavailable))
    }

    /// Decides a command at a key; `build` gets the position. Repeats it with a new view of the
    /// bucket when the shard does not know the old one.
    ///
    /// Permission counts as of the moment before each command, not of when the head was judged: a body may
    /// have been on its way for hours since.
    ///
    /// `movable` says whether what the command carries may be committed to another bucket of the
    /// same name: chunks belong to the bucket they were written for.
    ///
    /// # Errors
    /// Outer: not decided, or the bucket is gone. Inner: the cluster said no.
    pub(crate) async fn propose_at<C: Command>(
        &mut self,
        key: &ObjectKey,
        movable: bool,
        build: impl Fn(pb::Position) -> C + Send,
    ) -> Result<Result<C::Reply, pb::Rejection>, OssError> {
        for _ in 0..REFRESHES_MAX {
            self.authorise_again().await?;
            let bucket = Arc::clone(self.bucket()?);
            let command = build(bucket.position(key));
            let decision = self
                .shared
                .meta
                .propose(command)
                .await
                .map_err(failure::of_meta)?;
            match decision {
                Err(rejection)
                    if matches!(
                        rejection.reason(),
                        Reason::StaleGeneration | Reason::NoSuchBucket
                    ) =>
                {
                    self.refresh_bucket(&bucket).await?;
                    if !movable && self.bucket()?.id != bucket.id {
                        return Err(OssError::new(ErrorCode::ServiceUnavailable)
                            .source("the bucket was replaced while the body was being written"));
                    }
                }
                decision => return Ok(decision),
            }
        }
        Err(OssError::new(ErrorCode::ServiceUnavailable)
            .source("the shard and the root do not agree about the bucket"))
    }

    /// Asks for permission as a request that comes now would. Costs the bucket's owner nothing.
    ///
    /// # Errors
    /// AccessDenied, ServiceUnavailable.
    async fn authorise_again(&mut self) -> Result<(), OssError> {
        let old = Arc::clone(self.bucket()?);
        if self.caller.account() == Some(old.owner) {
            return Ok(());
        }
        self.bucket = Some(self.shared.newest(self.caller, &old).await?);
        authorise(self).await?;
        // What was judged is about to be changed.
        self.found = None;
        Ok(())
    }

    /// Looks the bucket up again and asks for permission again if it has changed.
    ///
    /// # Errors
    /// NoSuchBucket, AccessDenied, ServiceUnavailable.
    pub(crate) async fn refresh_bucket(&mut self, old: &Bucket) -> Result<(), OssError> {
        let name = old.name.clone();
        let found = self
            .shared
            .buckets
            .find_now(&name)
            .await
            .map_err(failure::of_meta)?;
        let Some(bucket) = found else {
            return Err(no_such_bucket(&name));
        };
        let (unchanged, same) = (*bucket == *old, bucket.id == old.id);
        self.bucket = Some(bucket);
        if unchanged {
            // The shard is ahead of the root, or the bucket's deletion is being decided.
            self.shared.runtime.sleep(REFRESH_PAUSE).await;
            return Ok(());
        }
        if !same {
            self.found = None;
        }
        authorise(self).await
    }

    /// Whether the bucket of this name is another one than `seen`: what holds no position (a
    /// listing, a counter) is asked again then.
    ///
    /// # Errors
    /// NoSuchBucket, AccessDenied, ServiceUnavailable.
    pub(crate) async fn bucket_has_changed(&mut self, seen: &Bucket) -> Result<bool, OssError> {
        let found = self
            .shared
            .buckets
            .find_now(&seen.name)
            .await
            .map_err(failure::of_meta)?;
        let bucket = found.ok_or_else(|| no_such_bucket(&seen.name))?;
        let changed = bucket.id != seen.id;
        self.bucket = Some(bucket);
        if changed {
            authorise(self).await?;
        }
        Ok(changed)
    }

    /// The endpoint that answers advertise: the configured one verbatim, or what the client used.
    pub(crate) fn advertised_endpoint(&self) -> String {
        let configured = self.shared.settings.public_endpoint.as_deref();
        configured
            .unwrap_or_else(|| self.head.endpoint())
            .to_owned()
    }

    /// How clients reach us: TLS ends before this gateway, so only the configured endpoint knows.
    pub(crate) fn scheme(&self) -> &'static str {
        let configured = self.shared.settings.public_endpoint.as_deref();
        if configured.is_some_and(|endpoint| endpoint.starts_with("https://")) {
            "https"
        } else {
            "http"
        }
    }

    /// An object's URL, as the client would address it.
    pub(crate) fn object_url(&self, bucket: &str, key: &ObjectKey) -> String {
        object_url(self.scheme(), &self.head, bucket, key.as_bytes())
    }

    /// An account as answers show it.
    pub(crate) fn owner(&self, account: AccountId) -> Owner {
        Owner {
            id: account.to_string(),
            display_name: account.to_string(),
        }
    }
}

fn object_url(scheme: &str, head: &Head, bucket: &str, key: &[u8]) -> String {
    let (host, key) = (&head.host, escape::encode_path(key));
    match head.address.style {
        AddressStyle::VirtualHost => format!("{scheme}://{host}/{key}"),
        AddressStyle::Path => format!("{scheme}://{host}/{bucket}/{key}"),
    }
}

/// Asks a shard for a version; `None` when the shard does not know this view of the bucket.
pub(crate) async fn find_version_in(
    shared: &Shared,
    bucket: &Bucket,
    key: &ObjectKey,
    version: VersionRef,
    with_body: bool,
) -> Result<Option<pb::VersionResult>, OssError> {
    let query = pb::GetVersion {
        at: Some(bucket.position(key)),
        version_stamp: version.stamp(),
        null_version: version.is_null(),
        with_body,
    };
    let answer = shared.meta.query(query).await.map_err(failure::of_meta)?;
    Ok(Some(answer).filter(|answer| !answer.bucket_unknown))
}

/// NoSuchBucket with the name.
pub(crate) fn no_such_bucket(name: &BucketName) -> OssError {
    OssError::new(ErrorCode::NoSuchBucket).extra("BucketName", name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::head;

    #[test]
    fn the_location_is_what_the_client_would_use() {
        for (host, target, expected) in [
            (
                "127.0.0.1:9000",
                "/bucket/a%20b",
                "http://127.0.0.1:9000/bucket/a%20b",
            ),
            ("bucket.localhost", "/a/b", "http://bucket.localhost/a/b"),
        ] {
            let head = head("POST", host, target, &[]);
            let key = head.object_key().unwrap();
            assert_eq!(
                object_url("http", &head, "bucket", key.as_bytes()),
                expected
            );
        }
    }
}
