//! Every operation of the API, one row each: how a request asks for it, which right it needs, and
//! the code that does it, or none yet.
//!
//! From this table come the router, the labels of metrics, the action that permissions are checked
//! for, the README's list, and the answer NotImplemented. `tests/operations.tsv` is the list it is
//! compared with. A new operation changes `later` to `built` here and adds one file.
//!
//! The order of rows does not matter: the row with the most conditions wins, and a test proves that
//! there is never a tie.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use granary_policy::{Access, Action};

use super::bucket::{
    DeleteBucket, DeleteBucketCors, DeleteBucketTags, GetBucketAcl, GetBucketCors, GetBucketInfo,
    GetBucketLocation, GetBucketStat, GetBucketTags, GetBucketVersioning, HeadBucket,
    ListObjectVersions, ListObjects, ListObjectsV2, PutBucket, PutBucketAcl, PutBucketCors,
    PutBucketTags, PutBucketVersioning,
};
use super::multipart::{
    AbortMultipartUpload, CompleteMultipartUpload, InitiateMultipartUpload, ListMultipartUploads,
    ListParts, UploadPart, UploadPartCopy,
};
use super::object::{
    AppendObject, CopyObject, CreateDirectory, DeleteDirectory, DeleteMultipleObjects,
    DeleteObject, DeleteObjectTagging, GetObject, GetObjectAcl, GetObjectMeta, GetObjectTagging,
    GetSymlink, HeadObject, OptionObject, PostObject, PutObject, PutObjectAcl, PutObjectTagging,
    PutSymlink, Rename, SealAppendObject,
};
use super::service::{DescribeRegions, ListBuckets};
use crate::pipeline::{Handler, later, run};
use When::{AnyOf, Has, Header, Is, May, Path};

/// One operation.
pub(crate) struct Row {
    /// The family, as the API's documentation groups operations.
    pub(crate) group: &'static str,
    /// The operation's name.
    pub(crate) name: &'static str,
    /// The methods, separated by `/`; `-` for none.
    methods: &'static str,
    /// What is addressed.
    pub(crate) scope: Scope,
    /// What else selects it; all must hold.
    pub(crate) when: &'static [When],
    /// What permission is asked for.
    pub(crate) action: Action,
    /// The code.
    pub(crate) handler: Handler,
    /// Whether there is any.
    pub(crate) built: bool,
    /// The error of the code that reads its input, for tests with heads of every kind.
    #[cfg(test)]
    pub(crate) refusal: fn(&crate::head::Head) -> Option<granary_oss::OssError>,
}

/// A condition on a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// The parameter is there, with or without a value.
    Has(&'static str),
    /// One of the parameters is there.
    AnyOf(&'static [&'static str]),
    /// The parameter has one of these values.
    Is(&'static str, &'static [&'static str]),
    /// The header is there.
    Header(&'static str),
    /// The path is this; `*` stands for one segment.
    Path(&'static str),
    /// The parameter may be there: it changes nothing, or the operation itself says what it means.
    May(&'static str),
}

/// A service with hosts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// Object storage.
    Oss,
    /// Vector buckets.
    Vectors,
    /// Table buckets.
    Tables,
}

/// What a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// No bucket.
    Service,
    /// A bucket.
    Bucket,
    /// An object.
    Object,
    /// A bucket or none (only in rows).
    ServiceOrBucket,
    /// The vectors host.
    VectorService,
    /// A bucket of the vectors host.
    VectorBucket,
    /// The tables host, by path.
    Tables,
}

impl Scope {
    /// All that a request can have.
    const OF_REQUESTS: [Self; 6] = [
        Self::Service,
        Self::Bucket,
        Self::Object,
        Self::VectorService,
        Self::VectorBucket,
        Self::Tables,
    ];

    /// Whether a row of this scope is meant by a request of `other`.
    pub(crate) fn covers(self, other: Scope) -> bool {
        match self {
            Scope::ServiceOrBucket => matches!(other, Scope::Service | Scope::Bucket),
            scope => scope == other,
        }
    }

    /// The kind of resource, for errors.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scope::Service | Scope::VectorService | Scope::Tables => "Service",
            Scope::Bucket | Scope::ServiceOrBucket | Scope::VectorBucket => "Bucket",
            Scope::Object => "Object",
        }
    }
}

impl When {
    /// The parameters that the condition is about.
    fn parameters(&self) -> &[&'static str] {
        match self {
            Has(name) | Is(name, _) | May(name) => std::slice::from_ref(name),
            AnyOf(names) => names,
            Header(_) | Path(_) => &[],
        }
    }

    /// Whether the condition is about this parameter.
    pub(crate) fn names(&self, parameter: &str) -> bool {
        self.parameters().contains(&parameter)
    }
}

impl Row {
    /// Whether the operation has this method.
    pub(crate) fn allows(&self, method: &str) -> bool {
        self.methods.split('/').any(|allowed| allowed == method)
    }

    /// How much the row says; a value says more than a presence.
    pub(crate) fn specificity(&self) -> usize {
        let weight = |when: &When| match when {
            Is(..) => 3,
            Path(pattern) => 2 + 2 * pattern.split('/').filter(|s| *s != "*").count(),
            Has(_) | AnyOf(_) | Header(_) => 2,
            May(_) => 0,
        };
        self.when.iter().map(weight).sum()
    }
}

/// The rows of each scope, so that a request does not go through those of others.
static SCOPES: LazyLock<HashMap<Scope, Rows>> = LazyLock::new(|| {
    let scopes = Scope::OF_REQUESTS.into_iter();
    scopes.map(|scope| (scope, Rows::of(scope))).collect()
});

#[derive(Default)]
struct Rows {
    by_method: HashMap<&'static str, Vec<&'static Row>>,
    /// What selects an operation, whatever the method.
    parameters: HashSet<&'static str>,
}

impl Rows {
    fn of(scope: Scope) -> Self {
        let mut rows = Self::default();
        for row in ROWS.iter().filter(|row| row.scope.covers(scope)) {
            for method in row.methods.split('/') {
                rows.by_method.entry(method).or_default().push(row);
            }
            for when in row.when {
                rows.parameters.extend(when.parameters());
            }
        }
        rows
    }
}

/// The rows of a scope that have the method, in the table's order.
pub(crate) fn rows(scope: Scope, method: &str) -> &'static [&'static Row] {
    let rows = SCOPES.get(&scope);
    let rows = rows.and_then(|rows| rows.by_method.get(method));
    rows.map(Vec::as_slice).unwrap_or_default()
}

/// The parameters that select an operation of a scope, whatever the method.
pub(crate) fn parameters(scope: Scope) -> &'static HashSet<&'static str> {
    static NONE: LazyLock<HashSet<&str>> = LazyLock::new(HashSet::new);
    SCOPES.get(&scope).map_or(&NONE, |rows| &rows.parameters)
}

/// The operations as a table in Markdown: what works, and how much of what does not.
pub fn operations_markdown() -> String {
    let mut text = String::from("| Group | Works | Not yet (501) |\n|---|---|---|\n");
    let mut groups: Vec<&str> = Vec::new();
    for row in ROWS {
        if !groups.contains(&row.group) {
            groups.push(row.group);
        }
    }
    let names = |group: &str, built: bool| -> String {
        let rows = ROWS
            .iter()
            .filter(|row| row.group == group && row.built == built);
        rows.map(|row| row.name).collect::<Vec<_>>().join(", ")
    };
    for group in groups {
        let (works, later) = (names(group, true), names(group, false));
        text.push_str(&format!("| {group} | {works} | {later} |\n"));
    }
    let built = ROWS.iter().filter(|row| row.built).count();
    text.push_str(&format!("\n{built} of {} operations work.\n", ROWS.len()));
    text
}

macro_rules! operations {
    ($($group:literal $name:ident $methods:literal $scope:ident [$($when:expr),*] $access:ident $(($action:literal))? $work:ident;)*) => {
        /// Every operation.
        pub(crate) const ROWS: &[Row] = &[$(Row {
            group: $group,
            name: stringify!($name),
            methods: $methods,
            scope: Scope::$scope,
            when: &[$($when),*],
            action: Action::new(operations!(@action $name $($action)?), Access::$access),
            handler: operations!(@handler $work $name),
            built: operations!(@built $work),
            #[cfg(test)]
            refusal: operations!(@refusal $work $name),
        }),*];
    };
    (@action $name:ident $action:literal) => { $action };
    (@action $name:ident) => { stringify!($name) };
    (@handler built $name:ident) => { run::<$name> };
    (@handler later $name:ident) => { later };
    // Done by the operations that it modifies; no request reaches it.
    (@handler modifier $name:ident) => { later };
    (@refusal built $name:ident) => { |head| <$name as super::Operation>::parse(head).err() };
    (@refusal $work:ident $name:ident) => { |_| None };
    (@built built) => { true };
    (@built later) => { false };
    (@built modifier) => { true };
}

operations! {
    // group operation methods scope [conditions] right (action, where it has another name) code
    // service
    "service" ListBuckets "GET" Service [] Account built;
    "service" ListUserDataRedundancyTransition "GET" Service [Has("redundancyTransition")] Account later;
    "service" ListCloudBoxes "GET" Service [Has("cloudboxes")] Account later;
    "service" GetUserQosInfo "GET" Service [Has("qosInfo")] Account later;
    "service" DoDataPipelineAction "POST" Service [Has("dataPipeline"), Has("action")] Account later;

    // region
    "region" DescribeRegions "GET" Service [Has("regions")] Account built;

    // bucket-basic
    "bucket-basic" PutBucket "PUT" Bucket [] Account built;
    "bucket-basic" DeleteBucket "DELETE" Bucket [] Owner built;
    "bucket-basic" HeadBucket "HEAD" Bucket [] Owner ("GetBucketInfo") built;
    "bucket-basic" ListObjects "GET" Bucket [] Owner built;
    "bucket-basic" ListObjectsV2 "GET" Bucket [Is("list-type", &["2"])] Owner ("ListObjects") built;
    "bucket-basic" GetBucketInfo "GET" Bucket [Has("bucketInfo")] Owner built;
    "bucket-basic" GetBucketLocation "GET" Bucket [Has("location")] Owner built;
    "bucket-basic" GetBucketStat "GET" Bucket [Has("stat")] Owner built;

    // worm
    "worm" InitiateBucketWorm "POST" Bucket [Has("worm")] Owner later;
    "worm" AbortBucketWorm "DELETE" Bucket [Has("worm")] Owner later;
    "worm" CompleteBucketWorm "POST" Bucket [Has("wormId")] Owner later;
    "worm" ExtendBucketWorm "POST" Bucket [Has("wormExtend"), Has("wormId")] Owner later;
    "worm" GetBucketWorm "GET" Bucket [Has("worm")] Owner later;

    // acl
    "acl" PutBucketAcl "PUT" Bucket [Has("acl")] Owner built;
    "acl" GetBucketAcl "GET" Bucket [Has("acl")] Owner built;

    // lifecycle
    "lifecycle" PutBucketLifecycle "PUT" Bucket [Has("lifecycle")] Owner later;
    "lifecycle" GetBucketLifecycle "GET" Bucket [Has("lifecycle")] Owner later;
    "lifecycle" DeleteBucketLifecycle "DELETE" Bucket [Has("lifecycle")] Owner later;

    // transfer-acceleration
    "transfer-acceleration" PutBucketTransferAcceleration "PUT" Bucket [Has("transferAcceleration")] Owner later;
    "transfer-acceleration" GetBucketTransferAcceleration "GET" Bucket [Has("transferAcceleration")] Owner later;
    "transfer-acceleration" DeleteBucketTransferAcceleration "DELETE" Bucket [Has("transferAcceleration")] Owner later;

    // versioning
    "versioning" PutBucketVersioning "PUT" Bucket [Has("versioning")] Owner built;
    "versioning" GetBucketVersioning "GET" Bucket [Has("versioning")] Owner built;
    "versioning" ListObjectVersions "GET" Bucket [Has("versions")] Owner built;

    // replication
    "replication" PutBucketReplication "POST" Bucket [Has("replication"), Is("comp", &["add"])] Owner later;
    "replication" PutBucketRTC "PUT" Bucket [Has("rtc")] Owner later;
    "replication" GetBucketReplication "GET" Bucket [Has("replication")] Owner later;
    "replication" GetBucketReplicationLocation "GET" Bucket [Has("replicationLocation")] Owner later;
    "replication" GetBucketReplicationProgress "GET" Bucket [Has("replicationProgress")] Owner later;
    "replication" DeleteBucketReplication "POST" Bucket [Has("replication"), Is("comp", &["delete"])] Owner later;

    // policy
    "policy" PutBucketPolicy "PUT" Bucket [Has("policy")] Owner later;
    "policy" GetBucketPolicy "GET" Bucket [Has("policy")] Owner later;
    "policy" GetBucketPolicyStatus "GET" Bucket [Has("policyStatus")] Owner later;
    "policy" DeleteBucketPolicy "DELETE" Bucket [Has("policy")] Owner later;

    // inventory
    "inventory" PutBucketInventory "PUT" Bucket [Has("inventory"), Has("inventoryId")] Owner later;
    "inventory" GetBucketInventory "GET" Bucket [Has("inventory"), Has("inventoryId")] Owner later;
    "inventory" ListBucketInventory "GET" Bucket [Has("inventory")] Owner later;
    "inventory" DeleteBucketInventory "DELETE" Bucket [Has("inventory"), Has("inventoryId")] Owner later;

    // logging
    "logging" PutBucketLogging "PUT" Bucket [Has("logging")] Owner later;
    "logging" GetBucketLogging "GET" Bucket [Has("logging")] Owner later;
    "logging" DeleteBucketLogging "DELETE" Bucket [Has("logging")] Owner later;
    "logging" PutUserDefinedLogFieldsConfig "PUT" Bucket [Has("userDefinedLogFieldsConfig")] Owner later;
    "logging" GetUserDefinedLogFieldsConfig "GET" Bucket [Has("userDefinedLogFieldsConfig")] Owner later;
    "logging" DeleteUserDefinedLogFieldsConfig "DELETE" Bucket [Has("userDefinedLogFieldsConfig")] Owner later;

    // website
    "website" PutBucketWebsite "PUT" Bucket [Has("website")] Owner later;
    "website" GetBucketWebsite "GET" Bucket [Has("website")] Owner later;
    "website" DeleteBucketWebsite "DELETE" Bucket [Has("website")] Owner later;

    // referer
    "referer" PutBucketReferer "PUT" Bucket [Has("referer")] Owner later;
    "referer" GetBucketReferer "GET" Bucket [Has("referer")] Owner later;

    // tags
    "tags" PutBucketTags "PUT" Bucket [Has("tagging")] Owner built;
    "tags" GetBucketTags "GET" Bucket [Has("tagging")] Owner built;
    "tags" DeleteBucketTags "DELETE" Bucket [Has("tagging")] Owner built;

    // encryption
    "encryption" PutBucketEncryption "PUT" Bucket [Has("encryption")] Owner later;
    "encryption" GetBucketEncryption "GET" Bucket [Has("encryption")] Owner later;
    "encryption" DeleteBucketEncryption "DELETE" Bucket [Has("encryption")] Owner later;

    // request-payment
    "request-payment" PutBucketRequestPayment "PUT" Bucket [Has("requestPayment")] Owner later;
    "request-payment" GetBucketRequestPayment "GET" Bucket [Has("requestPayment")] Owner later;

    // cors
    "cors" PutBucketCors "PUT" Bucket [Has("cors")] Owner built;
    "cors" GetBucketCors "GET" Bucket [Has("cors")] Owner built;
    "cors" DeleteBucketCors "DELETE" Bucket [Has("cors")] Owner built;
    "cors" OptionObject "OPTIONS" Object [] WriteObject built;

    // access-monitor
    "access-monitor" PutBucketAccessMonitor "PUT" Bucket [Has("accessmonitor")] Owner later;
    "access-monitor" GetBucketAccessMonitor "GET" Bucket [Has("accessmonitor")] Owner later;

    // meta-query
    "meta-query" OpenMetaQuery "POST" Bucket [Has("metaQuery"), Is("comp", &["add"])] Owner later;
    "meta-query" GetMetaQueryStatus "GET" Bucket [Has("metaQuery")] Owner later;
    "meta-query" DoMetaQuery "POST" Bucket [Has("metaQuery"), Is("comp", &["query"])] Owner later;
    "meta-query" CloseMetaQuery "POST" Bucket [Has("metaQuery"), Is("comp", &["delete"])] Owner later;
    "meta-query" DoMetaQueryAction "POST" Bucket [Has("metaQuery"), Has("action")] Owner later;

    // dataset
    "dataset" CreateDataset "POST" Bucket [Has("metaQuery"), Is("action", &["createDataset"])] Owner later;
    "dataset" GetDataset "POST" Bucket [Has("metaQuery"), Is("action", &["getDataset"])] Owner later;
    "dataset" UpdateDataset "POST" Bucket [Has("metaQuery"), Is("action", &["updateDataset"])] Owner later;
    "dataset" DeleteDataset "POST" Bucket [Has("metaQuery"), Is("action", &["deleteDataset"])] Owner later;
    "dataset" ListDatasets "POST" Bucket [Has("metaQuery"), Is("action", &["listDatasets"])] Owner later;
    "dataset" SimpleQuery "POST" Bucket [Has("metaQuery"), Is("action", &["simpleQuery"])] Owner later;
    "dataset" SemanticQuery "POST" Bucket [Has("metaQuery"), Is("action", &["semanticQuery"])] Owner later;
    "dataset" DeleteFileMeta "POST" Bucket [Has("metaQuery"), Is("action", &["deleteFileMeta"])] Owner later;
    "dataset" CreateSmartCluster "POST" Bucket [Has("metaQuery"), Is("action", &["createSmartCluster"])] Owner later;
    "dataset" GetSmartCluster "POST" Bucket [Has("metaQuery"), Is("action", &["getSmartCluster"])] Owner later;
    "dataset" UpdateSmartCluster "POST" Bucket [Has("metaQuery"), Is("action", &["updateSmartCluster"])] Owner later;
    "dataset" DeleteSmartCluster "POST" Bucket [Has("metaQuery"), Is("action", &["deleteSmartCluster"])] Owner later;
    "dataset" ListSmartClusters "POST" Bucket [Has("metaQuery"), Is("action", &["listSmartClusters"])] Owner later;

    // data-pipeline
    "data-pipeline" PutDataPipelineConfiguration "POST" Service [Has("dataPipeline"), Is("action", &["putDataPipelineConfiguration"]), Has("dataPipelineName"), Has("role")] Account later;
    "data-pipeline" GetDataPipelineConfiguration "POST" Service [Has("dataPipeline"), Is("action", &["getDataPipelineConfiguration"]), Has("dataPipelineName")] Account later;
    "data-pipeline" DeleteDataPipelineConfiguration "POST" Service [Has("dataPipeline"), Is("action", &["deleteDataPipelineConfiguration"]), Has("dataPipelineName")] Account later;
    "data-pipeline" ListDataPipelineConfigurations "POST" Service [Has("dataPipeline"), Is("action", &["listDataPipelineConfigurations"])] Account later;
    "data-pipeline" PauseDataPipeline "POST" Service [Has("dataPipeline"), Is("action", &["pauseDataPipeline"]), Has("dataPipelineName")] Account later;
    "data-pipeline" RestartDataPipeline "POST" Service [Has("dataPipeline"), Is("action", &["restartDataPipeline"]), Has("dataPipelineName")] Account later;

    // anti-ddos
    "anti-ddos" InitUserAntiDDosInfo "PUT" Service [Has("antiDDos")] Account later;
    "anti-ddos" UpdateUserAntiDDosInfo "POST" Service [Has("antiDDos")] Account later;
    "anti-ddos" GetUserAntiDDosInfo "GET" Service [Has("antiDDos")] Account later;
    "anti-ddos" InitBucketAntiDDosInfo "PUT" Bucket [Has("antiDDos")] Owner later;
    "anti-ddos" UpdateBucketAntiDDosInfo "POST" Bucket [Has("antiDDos")] Owner later;
    "anti-ddos" ListBucketAntiDDosInfo "GET" Bucket [Has("bucketAntiDDos")] Owner later;

    // resource-group
    "resource-group" PutBucketResourceGroup "PUT" Bucket [Has("resourceGroup")] Owner later;
    "resource-group" GetBucketResourceGroup "GET" Bucket [Has("resourceGroup")] Owner later;

    // cname
    "cname" CreateCnameToken "POST" Bucket [Has("cname"), Is("comp", &["token"])] Owner later;
    "cname" GetCnameToken "GET" Bucket [Is("comp", &["token"]), Has("cname")] Owner later;
    "cname" PutCname "POST" Bucket [Has("cname"), Is("comp", &["add"])] Owner later;
    "cname" ListCname "GET" Bucket [Has("cname")] Owner later;
    "cname" DeleteCname "POST" Bucket [Has("cname"), Is("comp", &["delete"])] Owner later;

    // style
    "style" PutStyle "PUT" Bucket [Has("style"), Has("styleName")] Owner later;
    "style" GetStyle "GET" Bucket [Has("style"), Has("styleName")] Owner later;
    "style" ListStyle "GET" Bucket [Has("style")] Owner later;
    "style" DeleteStyle "DELETE" Bucket [Has("style"), Has("styleName")] Owner later;

    // https-config
    "https-config" PutBucketHttpsConfig "PUT" Bucket [Has("httpsConfig")] Owner later;
    "https-config" GetBucketHttpsConfig "GET" Bucket [Has("httpsConfig")] Owner later;

    // redundancy-transition
    "redundancy-transition" CreateBucketDataRedundancyTransition "POST" Bucket [Has("redundancyTransition"), Has("x-oss-target-redundancy-type")] Owner later;
    "redundancy-transition" GetBucketDataRedundancyTransition "GET" Bucket [Has("redundancyTransition"), Has("x-oss-redundancy-transition-taskid")] Owner later;
    "redundancy-transition" DeleteBucketDataRedundancyTransition "DELETE" Bucket [Has("redundancyTransition"), Has("x-oss-redundancy-transition-taskid")] Owner later;
    "redundancy-transition" ListBucketDataRedundancyTransition "GET" Bucket [Has("redundancyTransition")] Owner later;

    // access-point
    "access-point" CreateAccessPoint "PUT" Bucket [Has("accessPoint")] Owner later;
    "access-point" GetAccessPoint "GET" Bucket [Has("accessPoint"), Header("x-oss-access-point-name")] Owner later;
    "access-point" DeleteAccessPoint "DELETE" Bucket [Has("accessPoint")] Owner later;
    "access-point" ListAccessPoints "GET" ServiceOrBucket [Has("accessPoint")] Owner later;
    "access-point" PutAccessPointPolicy "PUT" Bucket [Has("accessPointPolicy")] Owner later;
    "access-point" GetAccessPointPolicy "GET" Bucket [Has("accessPointPolicy")] Owner later;
    "access-point" DeleteAccessPointPolicy "DELETE" Bucket [Has("accessPointPolicy")] Owner later;

    // object-fc-access-point
    "object-fc-access-point" CreateAccessPointForObjectProcess "PUT" Bucket [Has("accessPointForObjectProcess")] Owner later;
    "object-fc-access-point" GetAccessPointForObjectProcess "GET" Bucket [Has("accessPointForObjectProcess")] Owner later;
    "object-fc-access-point" DeleteAccessPointForObjectProcess "DELETE" Bucket [Has("accessPointForObjectProcess")] Owner later;
    "object-fc-access-point" ListAccessPointsForObjectProcess "GET" Service [Has("accessPointForObjectProcess")] Account later;
    "object-fc-access-point" PutAccessPointConfigForObjectProcess "PUT" Bucket [Has("accessPointConfigForObjectProcess")] Owner later;
    "object-fc-access-point" GetAccessPointConfigForObjectProcess "GET" Bucket [Has("accessPointConfigForObjectProcess")] Owner later;
    "object-fc-access-point" PutAccessPointPolicyForObjectProcess "PUT" Bucket [Has("accessPointPolicyForObjectProcess")] Owner later;
    "object-fc-access-point" GetAccessPointPolicyForObjectProcess "GET" Bucket [Has("accessPointPolicyForObjectProcess")] Owner later;
    "object-fc-access-point" DeleteAccessPointPolicyForObjectProcess "DELETE" Bucket [Has("accessPointPolicyForObjectProcess")] Owner later;
    "object-fc-access-point" WriteGetObjectResponse "POST" Service [Has("x-oss-write-get-object-response")] Account later;

    // public-access-block
    "public-access-block" PutPublicAccessBlock "PUT" Service [Has("publicAccessBlock")] Account later;
    "public-access-block" GetPublicAccessBlock "GET" Service [Has("publicAccessBlock")] Account later;
    "public-access-block" DeletePublicAccessBlock "DELETE" Service [Has("publicAccessBlock")] Account later;
    "public-access-block" PutBucketPublicAccessBlock "PUT" Bucket [Has("publicAccessBlock")] Owner later;
    "public-access-block" GetBucketPublicAccessBlock "GET" Bucket [Has("publicAccessBlock")] Owner later;
    "public-access-block" DeleteBucketPublicAccessBlock "DELETE" Bucket [Has("publicAccessBlock")] Owner later;
    "public-access-block" PutAccessPointPublicAccessBlock "PUT" Bucket [Has("publicAccessBlock"), Has("x-oss-access-point-name")] Owner later;
    "public-access-block" GetAccessPointPublicAccessBlock "GET" Bucket [Has("publicAccessBlock"), Has("x-oss-access-point-name")] Owner later;
    "public-access-block" DeleteAccessPointPublicAccessBlock "DELETE" Bucket [Has("publicAccessBlock"), Has("x-oss-access-point-name")] Owner later;

    // archive-direct-read
    "archive-direct-read" PutBucketArchiveDirectRead "PUT" Bucket [Has("bucketArchiveDirectRead")] Owner later;
    "archive-direct-read" GetBucketArchiveDirectRead "GET" Bucket [Has("bucketArchiveDirectRead")] Owner later;

    // data-accelerator
    "data-accelerator" PutBucketDataAccelerator "PUT" Bucket [Has("dataAccelerator")] Owner later;
    "data-accelerator" GetBucketDataAccelerator "GET" Bucket [Has("dataAccelerator")] Owner later;
    "data-accelerator" DeleteBucketDataAccelerator "DELETE" Bucket [Has("dataAccelerator"), Has("x-oss-datalake-cache-available-zone")] Owner later;

    // overwrite-config
    "overwrite-config" PutBucketOverwriteConfig "PUT" Bucket [Has("overwriteConfig")] Owner later;
    "overwrite-config" GetBucketOverwriteConfig "GET" Bucket [Has("overwriteConfig")] Owner later;
    "overwrite-config" DeleteBucketOverwriteConfig "DELETE" Bucket [Has("overwriteConfig")] Owner later;

    // object-worm
    "object-worm" PutBucketObjectWormConfiguration "PUT" Bucket [Has("objectWorm")] Owner later;
    "object-worm" GetBucketObjectWormConfiguration "GET" Bucket [Has("objectWorm")] Owner later;
    "object-worm" PutObjectRetention "PUT" Object [Has("retention")] Owner later;
    "object-worm" GetObjectRetention "GET" Object [Has("retention")] Owner later;
    "object-worm" PutObjectLegalHold "PUT" Object [Has("legalHold")] Owner later;
    "object-worm" GetObjectLegalHold "GET" Object [Has("legalHold")] Owner later;

    // callback-policy
    "callback-policy" PutBucketCallbackPolicy "PUT" Bucket [Has("policy"), Is("comp", &["callback"])] Owner later;
    "callback-policy" GetBucketCallbackPolicy "GET" Bucket [Has("policy"), Is("comp", &["callback"])] Owner later;
    "callback-policy" DeleteBucketCallbackPolicy "DELETE" Bucket [Has("policy"), Is("comp", &["callback"])] Owner later;

    // async-fetch
    "async-fetch" PutAsyncFetchTask "POST" Bucket [Has("asyncFetch")] Owner later;
    "async-fetch" GetAsyncFetchTask "GET" Bucket [Has("asyncFetch")] Owner later;

    // response-header
    "response-header" PutBucketResponseHeader "PUT" Bucket [Has("responseHeader")] Owner later;
    "response-header" GetBucketResponseHeader "GET" Bucket [Has("responseHeader")] Owner later;
    "response-header" DeleteBucketResponseHeader "DELETE" Bucket [Has("responseHeader")] Owner later;

    // storage-capacity
    "storage-capacity" SetBucketStorageCapacity "PUT" Bucket [Has("qos")] Owner later;
    "storage-capacity" GetBucketStorageCapacity "GET" Bucket [Has("qos")] Owner later;

    // legacy-image
    "legacy-image" PutBucketProcess "PUT" Bucket [Has("processConfiguration")] Owner later;
    "legacy-image" GetBucketProcess "GET" Bucket [Has("processConfiguration")] Owner later;
    "legacy-image" PutBucketImage "PUT" Bucket [Has("img")] Owner later;
    "legacy-image" GetBucketImage "GET" Bucket [Has("img")] Owner later;
    "legacy-image" DeleteBucketImage "DELETE" Bucket [Has("img")] Owner later;

    // legacy-vpc
    "legacy-vpc" CreateVpcip "POST" Service [Has("vpcip")] Account later;
    "legacy-vpc" ListVpcip "GET" Service [Has("vpcip")] Account later;
    "legacy-vpc" DeleteVpcip "DELETE" Service [Has("vpcip")] Account later;
    "legacy-vpc" CreateBucketVpcip "POST" Bucket [Has("vip"), Is("comp", &["add"])] Owner later;
    "legacy-vpc" GetBucketVpcip "GET" Bucket [Has("vip")] Owner later;
    "legacy-vpc" DeleteBucketVpcip "POST" Bucket [Has("vip"), Is("comp", &["delete"])] Owner later;

    // legacy-udf
    // Thirteen retired operations in one row: nobody can call them any more.
    "legacy-udf" Udf "GET/PUT/POST/DELETE" Service [AnyOf(&["udf", "udfName", "udfImage", "udfId", "udfImageDesc", "udfApplication", "udfApplicationLog"])] Account later;

    // object-basic
    "object-basic" PutObject "PUT" Object [] WriteObject built;
    "object-basic" GetObject "GET" Object [] ReadObject built;
    "object-basic" CopyObject "PUT" Object [Header("x-oss-copy-source")] WriteObject ("PutObject") built;
    "object-basic" AppendObject "POST" Object [Has("append"), May("position")] WriteObject ("PutObject") built;
    "object-basic" SealAppendObject "POST" Object [Has("seal"), May("position")] WriteObject ("PutObject") built;
    "object-basic" DeleteObject "DELETE" Object [May("symlink")] WriteObject built;
    "object-basic" DeleteMultipleObjects "POST" Bucket [Has("delete")] WriteObject ("DeleteObject") built;
    "object-basic" HeadObject "HEAD" Object [] ReadObject ("GetObject") built;
    "object-basic" GetObjectMeta "HEAD/GET" Object [Has("objectMeta")] ReadObject ("GetObject") built;
    "object-basic" PostObject "POST" Bucket [] WriteObject ("PutObject") built;
    // Not a request of its own: headers or parameters of uploads.
    "object-basic" Callback "-" Object [] WriteObject modifier;
    "object-basic" RestoreObject "POST" Object [Has("restore")] WriteObject later;
    "object-basic" CleanRestoredObject "POST" Object [Has("cleanRestoredObject")] WriteObject later;
    "object-basic" SelectObject "POST" Object [Is("x-oss-process", &["csv/select", "json/select"])] WriteObject later;
    "object-basic" CreateSelectObjectMeta "POST" Object [Is("x-oss-process", &["csv/meta", "json/meta"])] WriteObject later;
    "object-basic" ProcessObject "POST" Object [Has("x-oss-process")] WriteObject later;
    "object-basic" AsyncProcessObject "POST" Object [Has("x-oss-async-process")] WriteObject later;

    // directory
    "directory" CreateDirectory "POST" Object [Has("x-oss-dir")] WriteObject ("PutObject") built;
    "directory" Rename "POST" Object [Has("x-oss-rename")] WriteObject ("PutObject") built;
    "directory" DeleteDirectory "POST" Object [Has("x-oss-delete")] WriteObject ("DeleteObject") built;

    // multipart
    "multipart" InitiateMultipartUpload "POST" Object [Has("uploads")] WriteObject ("PutObject") built;
    // Half of the two says what was meant.
    "multipart" UploadPart "PUT" Object [AnyOf(&["uploadId", "partNumber"])] WriteObject ("PutObject") built;
    "multipart" UploadPartCopy "PUT" Object [AnyOf(&["uploadId", "partNumber"]), Header("x-oss-copy-source")] WriteObject ("PutObject") built;
    "multipart" CompleteMultipartUpload "POST" Object [Has("uploadId")] WriteObject ("PutObject") built;
    "multipart" AbortMultipartUpload "DELETE" Object [Has("uploadId")] Owner built;
    "multipart" ListMultipartUploads "GET" Bucket [Has("uploads")] Owner built;
    "multipart" ListParts "GET" Object [Has("uploadId")] Owner built;

    // object-acl
    "object-acl" PutObjectAcl "PUT" Object [Has("acl")] Owner built;
    "object-acl" GetObjectAcl "GET" Object [Has("acl")] Owner built;

    // symlink
    "symlink" PutSymlink "PUT" Object [Has("symlink")] WriteObject built;
    "symlink" GetSymlink "GET" Object [Has("symlink")] ReadObject built;

    // object-tagging
    "object-tagging" PutObjectTagging "PUT" Object [Has("tagging")] Owner built;
    "object-tagging" GetObjectTagging "GET" Object [Has("tagging")] Owner built;
    "object-tagging" DeleteObjectTagging "DELETE" Object [Has("tagging")] Owner built;

    // vector-bucket
    "vector-bucket" PutVectorBucket "PUT" VectorBucket [] Owner later;
    "vector-bucket" GetVectorBucket "GET" VectorBucket [Has("bucketInfo")] Owner later;
    "vector-bucket" ListVectorBuckets "GET" VectorService [] Account later;
    "vector-bucket" DeleteVectorBucket "DELETE" VectorBucket [] Owner later;
    "vector-bucket" VectorPutBucketPolicy "PUT" VectorBucket [Has("policy")] Owner later;
    "vector-bucket" VectorGetBucketPolicy "GET" VectorBucket [Has("policy")] Owner later;
    "vector-bucket" VectorDeleteBucketPolicy "DELETE" VectorBucket [Has("policy")] Owner later;
    "vector-bucket" VectorPutBucketLogging "PUT" VectorBucket [Has("logging")] Owner later;
    "vector-bucket" VectorGetBucketLogging "GET" VectorBucket [Has("logging")] Owner later;
    "vector-bucket" VectorDeleteBucketLogging "DELETE" VectorBucket [Has("logging")] Owner later;

    // vector-index
    "vector-index" PutVectorIndex "POST" VectorBucket [Has("putVectorIndex")] Owner later;
    "vector-index" GetVectorIndex "POST" VectorBucket [Has("getVectorIndex")] Owner later;
    "vector-index" ListVectorIndexes "POST" VectorBucket [Has("listVectorIndexes")] Owner later;
    "vector-index" DeleteVectorIndex "POST" VectorBucket [Has("deleteVectorIndex")] Owner later;

    // vector-data
    "vector-data" PutVectors "POST" VectorBucket [Has("putVectors")] Owner later;
    "vector-data" GetVectors "POST" VectorBucket [Has("getVectors")] Owner later;
    "vector-data" ListVectors "POST" VectorBucket [Has("listVectors")] Owner later;
    "vector-data" DeleteVectors "POST" VectorBucket [Has("deleteVectors")] Owner later;
    "vector-data" QueryVectors "POST" VectorBucket [Has("queryVectors")] Owner later;

    // table-bucket
    "table-bucket" CreateTableBucket "PUT" Tables [Path("/buckets")] Account later;
    "table-bucket" GetTableBucket "GET" Tables [Path("/buckets/*")] Account later;
    "table-bucket" ListTableBuckets "GET" Tables [Path("/buckets")] Account later;
    "table-bucket" DeleteTableBucket "DELETE" Tables [Path("/buckets/*")] Account later;
    "table-bucket" PutTableBucketEncryption "PUT" Tables [Path("/buckets/*/encryption")] Account later;
    "table-bucket" GetTableBucketEncryption "GET" Tables [Path("/buckets/*/encryption")] Account later;
    "table-bucket" DeleteTableBucketEncryption "DELETE" Tables [Path("/buckets/*/encryption")] Account later;
    "table-bucket" PutTableBucketPolicy "PUT" Tables [Path("/buckets/*/policy")] Account later;
    "table-bucket" GetTableBucketPolicy "GET" Tables [Path("/buckets/*/policy")] Account later;
    "table-bucket" DeleteTableBucketPolicy "DELETE" Tables [Path("/buckets/*/policy")] Account later;
    "table-bucket" PutTableBucketMaintenanceConfiguration "PUT" Tables [Path("/buckets/*/maintenance/*")] Account later;
    "table-bucket" GetTableBucketMaintenanceConfiguration "GET" Tables [Path("/buckets/*/maintenance")] Account later;

    // table-namespace
    "table-namespace" CreateNamespace "PUT" Tables [Path("/namespaces/*")] Account later;
    "table-namespace" GetNamespace "GET" Tables [Path("/namespaces/*/*")] Account later;
    "table-namespace" ListNamespaces "GET" Tables [Path("/namespaces/*")] Account later;
    "table-namespace" DeleteNamespace "DELETE" Tables [Path("/namespaces/*/*")] Account later;

    // table
    "table" CreateTable "PUT" Tables [Path("/tables/*/*")] Account later;
    "table" GetTable "GET" Tables [Path("/get-table")] Account later;
    "table" ListTables "GET" Tables [Path("/tables/*")] Account later;
    "table" RenameTable "PUT" Tables [Path("/tables/*/*/*/rename")] Account later;
    "table" DeleteTable "DELETE" Tables [Path("/tables/*/*/*")] Account later;
    "table" GetTableEncryption "GET" Tables [Path("/tables/*/*/*/encryption")] Account later;
    "table" PutTablePolicy "PUT" Tables [Path("/tables/*/*/*/policy")] Account later;
    "table" GetTablePolicy "GET" Tables [Path("/tables/*/*/*/policy")] Account later;
    "table" DeleteTablePolicy "DELETE" Tables [Path("/tables/*/*/*/policy")] Account later;
    "table" PutTableMaintenanceConfiguration "PUT" Tables [Path("/tables/*/*/*/maintenance/*")] Account later;
    "table" GetTableMaintenanceConfiguration "GET" Tables [Path("/tables/*/*/*/maintenance")] Account later;
    "table" GetTableMaintenanceJobStatus "GET" Tables [Path("/tables/*/*/*/maintenance-job-status")] Account later;
    "table" GetTableMetadataLocation "GET" Tables [Path("/tables/*/*/*/metadata-location")] Account later;
    "table" UpdateTableMetadataLocation "PUT" Tables [Path("/tables/*/*/*/metadata-location")] Account later;

    // qos
    "qos" PutBucketQoSInfo "PUT" Bucket [Has("qosInfo")] Owner later;
    "qos" GetBucketQoSInfo "GET" Bucket [Has("qosInfo")] Owner later;
    "qos" DeleteBucketQoSInfo "DELETE" Bucket [Has("qosInfo")] Owner later;
    "qos" PutBucketRequesterQoSInfo "PUT" Bucket [Has("requesterQosInfo"), Has("qosRequester")] Owner later;
    "qos" GetBucketRequesterQoSInfo "GET" Bucket [Has("requesterQosInfo"), Has("qosRequester")] Owner later;
    "qos" ListBucketRequesterQoSInfos "GET" Bucket [Has("requesterQosInfo")] Owner later;
    "qos" DeleteBucketRequesterQoSInfo "DELETE" Bucket [Has("requesterQosInfo"), Has("qosRequester")] Owner later;

    // resource-pool
    "resource-pool" ListResourcePools "GET" Service [Has("resourcePool")] Account later;
    "resource-pool" GetResourcePoolInfo "GET" Service [Has("resourcePoolInfo"), Has("resourcePool")] Account later;
    "resource-pool" ListResourcePoolBuckets "GET" Service [Has("resourcePoolBuckets"), Has("resourcePool")] Account later;
    "resource-pool" PutResourcePoolRequesterQoSInfo "PUT" Service [Has("requesterQosInfo"), Has("resourcePool"), Has("qosRequester")] Account later;
    "resource-pool" GetResourcePoolRequesterQoSInfo "GET" Service [Has("requesterQosInfo"), Has("resourcePool"), Has("qosRequester")] Account later;
    "resource-pool" ListResourcePoolRequesterQoSInfos "GET" Service [Has("requesterQosInfo"), Has("resourcePool")] Account later;
    "resource-pool" DeleteResourcePoolRequesterQoSInfo "DELETE" Service [Has("requesterQosInfo"), Has("resourcePool"), Has("qosRequester")] Account later;
    "resource-pool" PutBucketResourcePoolBucketGroup "PUT" Bucket [Has("resourcePool"), Has("resourcePoolBucketGroup")] Owner later;
    "resource-pool" ListResourcePoolBucketGroups "GET" Service [Has("resourcePoolBucketGroup"), Has("resourcePool")] Account later;
    "resource-pool" PutResourcePoolBucketGroupQoSInfo "PUT" Service [Has("resourcePoolBucketGroupQosInfo"), Has("resourcePool"), Has("resourcePoolBucketGroup")] Account later;
    "resource-pool" GetResourcePoolBucketGroupQoSInfo "GET" Service [Has("resourcePoolBucketGroupQosInfo"), Has("resourcePool"), Has("resourcePoolBucketGroup")] Account later;
    "resource-pool" ListResourcePoolBucketGroupQoSInfos "GET" Service [Has("resourcePoolBucketGroupQosInfo"), Has("resourcePool")] Account later;
    "resource-pool" DeleteResourcePoolBucketGroupQoSInfo "DELETE" Service [Has("resourcePoolBucketGroupQosInfo"), Has("resourcePool"), Has("resourcePoolBucketGroup")] Account later;

    // livechannel
    "livechannel" PutLiveChannel "PUT" Object [Has("live")] Owner later;
    "livechannel" PutLiveChannelStatus "PUT" Object [Has("live"), Has("status")] Owner later;
    "livechannel" GetLiveChannelInfo "GET" Object [Has("live")] Owner later;
    "livechannel" GetLiveChannelStat "GET" Object [Has("live"), Is("comp", &["stat"])] Owner later;
    "livechannel" GetLiveChannelHistory "GET" Object [Has("live"), Is("comp", &["history"])] Owner later;
    "livechannel" ListLiveChannel "GET" Bucket [Has("live")] Owner later;
    "livechannel" DeleteLiveChannel "DELETE" Object [Has("live")] Owner later;
    "livechannel" PostVodPlaylist "POST" Object [Has("vod"), Has("startTime"), Has("endTime")] Owner later;
    "livechannel" GetVodPlaylist "GET" Object [Has("vod"), Has("startTime"), Has("endTime")] Owner later;

    // sts
    "sts" AssumeRole "POST/GET" Service [Is("Action", &["AssumeRole"])] Account later;
}

#[cfg(test)]
mod tests;
