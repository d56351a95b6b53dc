"""The official SDKs behind one face, so that a test is written once and runs on each.

An adapter only translates: arguments to the SDK's call, its result to the small records below, its
service errors to ApiError. It must not check, retry or repair anything.
"""
import datetime
import urllib.parse
from dataclasses import dataclass, field

import alibabacloud_oss_v2 as ossv2
import oss2

NAMES = ("oss2-v1", "oss2-v2", "oss2-v4", "ossv2-v4", "ossv2-v1")


class ApiError(Exception):
    """A service error as the SDK decoded it."""

    def __init__(self, status, code, message, ec, request_id, headers):
        super().__init__(f"{status} {code} {ec}: {message}")
        self.status, self.code, self.message = status, code, message
        self.ec, self.request_id, self.headers = ec, request_id, headers


@dataclass
class Reply:
    """What every answer has; `data` is the body of a GET."""
    status: int
    headers: dict
    etag: str = ""
    data: bytes = b""

    @property
    def crc64(self):
        """The x-oss-hash-crc64ecma header."""
        return self.headers.get("x-oss-hash-crc64ecma")


@dataclass
class Entry:
    """One object of a listing."""
    key: str
    size: int
    etag: str
    type: str
    storage_class: str
    owner: str


@dataclass
class Page:
    """One page of a listing; `next` is whatever gets the following one."""
    entries: list = field(default_factory=list)
    prefixes: list = field(default_factory=list)
    truncated: bool = False
    next: object = None

    @property
    def keys(self):
        """Keys of the entries."""
        return [entry.key for entry in self.entries]


@dataclass
class Part:
    """A part: number, unquoted ETag, size."""
    number: int
    etag: str
    size: int = 0


@dataclass
class CorsRule:
    """One rule of a bucket's CORS configuration."""
    origins: list
    methods: list
    headers: list = field(default_factory=list)
    expose: list = field(default_factory=list)
    age: int = None


@dataclass
class Version:
    """A version of an object, or a delete marker (without ETag)."""
    key: str
    version: str
    latest: bool
    etag: str = None
    size: int = None


@dataclass
class VersionPage:
    """One page of a listing of versions."""
    versions: list
    markers: list
    truncated: bool
    next: tuple


def make(name, server, endpoint=None, credentials=None):
    """The adapter called `name` for a server."""
    family, auth = name.split("-")
    cred = credentials or server.credentials
    adapter = Oss2 if family == "oss2" else OssV2
    return adapter(name, auth, endpoint or server.endpoint, cred)


def _bare(etag):
    return (etag or "").strip('"')


class Oss2:
    """The `oss2` package."""

    def __init__(self, name, auth, endpoint, cred):
        self.name, self.auth_version, self.endpoint, self.cred = name, auth, endpoint, cred
        self.auth = oss2.make_auth(cred.key_id, cred.secret, auth)
        self.session = oss2.Session()

    def _bucket(self, bucket):
        # The SDK refuses keys that begin with `?` under V1 unless told otherwise; the service accepts them.
        return oss2.Bucket(self.auth, self.endpoint, bucket, region=self.cred.region, session=self.session,
                           is_verify_object_strict=False)

    @staticmethod
    def _call(function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except oss2.exceptions.ServerError as error:
            raise ApiError(error.status, error.code, error.message, error.ec, error.request_id, error.headers) from error

    @staticmethod
    def _reply(result):
        return Reply(result.status, result.headers, _bare(result.headers.get("etag")))

    def put_bucket(self, bucket, acl=None, storage_class=None, redundancy=None):
        config = None
        if storage_class or redundancy:
            config = oss2.models.BucketCreateConfig(storage_class, redundancy)
        return self._reply(self._call(self._bucket(bucket).create_bucket, acl, config))

    def delete_bucket(self, bucket):
        return self._reply(self._call(self._bucket(bucket).delete_bucket))

    def list_buckets(self, prefix="", marker="", max_keys=100):
        service = oss2.Service(self.auth, self.endpoint, region=self.cred.region, session=self.session)
        return self._call(service.list_buckets, prefix=prefix, marker=marker, max_keys=max_keys)

    def get_bucket_info(self, bucket):
        return self._call(self._bucket(bucket).get_bucket_info)

    def get_bucket_location(self, bucket):
        return self._call(self._bucket(bucket).get_bucket_location).location

    def get_bucket_stat(self, bucket):
        stat = self._call(self._bucket(bucket).get_bucket_stat)
        return {"storage": stat.storage_size_in_bytes, "objects": stat.object_count,
                "uploads": stat.multi_part_upload_count, "standard_objects": stat.standard_object_count}

    def list_objects(self, bucket, prefix="", delimiter="", marker="", max_keys=100):
        result = self._call(self._bucket(bucket).list_objects, prefix, delimiter, marker, max_keys)
        return self._page(result, result.next_marker)

    def list_objects_v2(self, bucket, prefix="", delimiter="", token="", start_after="", fetch_owner=False, max_keys=100):
        result = self._call(self._bucket(bucket).list_objects_v2, prefix=prefix, delimiter=delimiter,
                            continuation_token=token, start_after=start_after, fetch_owner=fetch_owner, max_keys=max_keys)
        return self._page(result, result.next_continuation_token)

    @staticmethod
    def _page(result, following):
        entries = [Entry(o.key, o.size, o.etag, o.type, o.storage_class, o.owner.id if o.owner else None)
                   for o in result.object_list]
        return Page(entries, list(result.prefix_list), result.is_truncated, following)

    def put_object(self, bucket, key, data, headers=None):
        return self._reply(self._call(self._bucket(bucket).put_object, key, data, headers=headers))

    def append_object(self, bucket, key, position, data, headers=None):
        result = self._call(self._bucket(bucket).append_object, key, position, data, headers=headers)
        assert result.next_position == int(result.headers["x-oss-next-append-position"])
        return self._reply(result)

    def get_object(self, bucket, key, headers=None, params=None):
        def read():
            result = self._bucket(bucket).get_object(key, headers=headers, params=params)
            return result, result.read()
        result, data = self._call(read)
        return Reply(result.status, result.headers, result.etag, data)

    def head_object(self, bucket, key, headers=None):
        return self._reply(self._call(self._bucket(bucket).head_object, key, headers=headers))

    def get_object_meta(self, bucket, key):
        return self._reply(self._call(self._bucket(bucket).get_object_meta, key))

    def object_exists(self, bucket, key):
        return self._call(self._bucket(bucket).object_exists, key)

    def copy_object(self, source_bucket, source_key, bucket, key, headers=None):
        result = self._call(self._bucket(bucket).copy_object, source_bucket, source_key, key, headers=headers)
        return Reply(result.status, result.headers, _bare(result.etag))

    def delete_object(self, bucket, key):
        return self._reply(self._call(self._bucket(bucket).delete_object, key))

    def delete_objects(self, bucket, keys):
        return list(self._call(self._bucket(bucket).batch_delete_objects, keys).deleted_keys)

    def initiate(self, bucket, key, headers=None):
        return self._call(self._bucket(bucket).init_multipart_upload, key, headers=headers).upload_id

    def upload_part(self, bucket, key, upload_id, number, data):
        result = self._call(self._bucket(bucket).upload_part, key, upload_id, number, data)
        return Part(number, result.etag, len(data))

    def upload_part_copy(self, source_bucket, source_key, bucket, key, upload_id, number, byte_range=None):
        result = self._call(self._bucket(bucket).upload_part_copy, source_bucket, source_key, byte_range, key, upload_id, number)
        return Part(number, result.etag)

    def complete(self, bucket, key, upload_id, parts, headers=None):
        infos = None if parts is None else [oss2.models.PartInfo(p.number, p.etag) for p in parts]
        call = self._bucket(bucket)
        call.enable_crc = False
        return self._reply(self._call(call.complete_multipart_upload, key, upload_id, infos, headers=headers))

    def abort(self, bucket, key, upload_id):
        return self._reply(self._call(self._bucket(bucket).abort_multipart_upload, key, upload_id))

    def list_uploads(self, bucket, prefix="", delimiter="", marker=("", ""), max_uploads=1000):
        result = self._call(self._bucket(bucket).list_multipart_uploads, prefix, delimiter, marker[0], marker[1], max_uploads)
        page = Page([(u.key, u.upload_id) for u in result.upload_list], list(result.prefix_list), result.is_truncated)
        page.next = (result.next_key_marker, result.next_upload_id_marker)
        return page

    def list_parts(self, bucket, key, upload_id, marker="", max_parts=1000):
        result = self._call(self._bucket(bucket).list_parts, key, upload_id, marker=str(marker), max_parts=max_parts)
        parts = [Part(p.part_number, p.etag, p.size) for p in result.parts]
        return Page(parts, [], result.is_truncated, result.next_marker)

    def presign(self, method, bucket, key, expires_s, headers=None):
        call = self._bucket(bucket)
        return self._call(call.sign_url, method, key, expires_s, headers=headers, slash_safe=True)

    def describe_regions(self, region=""):
        service = oss2.Service(self.auth, self.endpoint, region=self.cred.region, session=self.session)
        return [info.region for info in self._call(service.describe_regions, region).regions]

    def put_bucket_acl(self, bucket, acl):
        return self._reply(self._call(self._bucket(bucket).put_bucket_acl, acl))

    def get_bucket_acl(self, bucket):
        return self._call(self._bucket(bucket).get_bucket_acl).acl

    def put_bucket_tags(self, bucket, tags):
        return self._reply(self._call(self._bucket(bucket).put_bucket_tagging, self._tagging(tags)))

    def get_bucket_tags(self, bucket):
        return dict(self._call(self._bucket(bucket).get_bucket_tagging).tag_set.tagging_rule)

    def delete_bucket_tags(self, bucket):
        return self._reply(self._call(self._bucket(bucket).delete_bucket_tagging))

    @staticmethod
    def _tagging(tags):
        rule = oss2.models.TaggingRule()
        for key, value in tags.items():
            rule.add(key, value)
        return oss2.models.Tagging(rule)

    def put_bucket_cors(self, bucket, rules, vary=None):
        made = [oss2.models.CorsRule(rule.origins, rule.methods, rule.headers, rule.expose, rule.age) for rule in rules]
        return self._reply(self._call(self._bucket(bucket).put_bucket_cors, oss2.models.BucketCors(made, vary)))

    def get_bucket_cors(self, bucket):
        found = self._call(self._bucket(bucket).get_bucket_cors)
        return [CorsRule(r.allowed_origins, r.allowed_methods, r.allowed_headers, r.expose_headers, r.max_age_seconds) for r in found.rules], found.response_vary

    def delete_bucket_cors(self, bucket):
        return self._reply(self._call(self._bucket(bucket).delete_bucket_cors))

    def put_bucket_versioning(self, bucket, status):
        return self._reply(self._call(self._bucket(bucket).put_bucket_versioning, oss2.models.BucketVersioningConfig(status)))

    def get_bucket_versioning(self, bucket):
        return self._call(self._bucket(bucket).get_bucket_versioning).status

    def list_versions(self, bucket, prefix="", marker=("", ""), max_keys=100):
        result = self._call(self._bucket(bucket).list_object_versions, prefix=prefix, key_marker=marker[0], versionid_marker=marker[1], max_keys=max_keys)
        versions = [Version(v.key, v.versionid, v.is_latest, v.etag, v.size) for v in result.versions]
        markers = [Version(m.key, m.versionid, m.is_latest) for m in result.delete_marker]
        return VersionPage(versions, markers, result.is_truncated, (result.next_key_marker, result.next_versionid_marker))

    def delete_version(self, bucket, key, version):
        return self._reply(self._call(self._bucket(bucket).delete_object, key, params={"versionId": version}))

    def put_object_acl(self, bucket, key, acl):
        return self._reply(self._call(self._bucket(bucket).put_object_acl, key, acl))

    def get_object_acl(self, bucket, key):
        return self._call(self._bucket(bucket).get_object_acl, key).acl

    def put_object_tags(self, bucket, key, tags):
        return self._reply(self._call(self._bucket(bucket).put_object_tagging, key, self._tagging(tags)))

    def get_object_tags(self, bucket, key):
        return dict(self._call(self._bucket(bucket).get_object_tagging, key).tag_set.tagging_rule)

    def delete_object_tags(self, bucket, key):
        return self._reply(self._call(self._bucket(bucket).delete_object_tagging, key))

    def put_symlink(self, bucket, key, target, headers=None):
        return self._reply(self._call(self._bucket(bucket).put_symlink, target, key, headers=headers))

    def get_symlink(self, bucket, key):
        return self._call(self._bucket(bucket).get_symlink, key).target_key


class OssV2:
    """The `alibabacloud-oss-v2` package."""

    def __init__(self, name, auth, endpoint, cred):
        self.name, self.auth_version, self.endpoint, self.cred = name, auth, endpoint, cred
        config = ossv2.config.load_default()
        config.region, config.endpoint, config.signature_version = cred.region, endpoint, auth
        config.credentials_provider = ossv2.credentials.StaticCredentialsProvider(cred.key_id, cred.secret)
        # A retry would hide an answer that should have been right the first time.
        config.retry_max_attempts = 1
        self.client = ossv2.Client(config)

    @staticmethod
    def _call(function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ossv2.exceptions.OperationError as error:
            service = error.unwrap()
            if not isinstance(service, ossv2.exceptions.ServiceError):
                raise
            raise ApiError(service.status_code, service.code, service.message, service.ec, service.request_id,
                           service.headers) from error

    @staticmethod
    def _reply(result):
        return Reply(result.status_code, result.headers, _bare(result.headers.get("etag")))

    def put_bucket(self, bucket, acl=None, storage_class=None, redundancy=None):
        config = None
        if storage_class or redundancy:
            config = ossv2.CreateBucketConfiguration(storage_class=storage_class, data_redundancy_type=redundancy)
        request = ossv2.PutBucketRequest(bucket=bucket, acl=acl, create_bucket_configuration=config)
        return self._reply(self._call(self.client.put_bucket, request))

    def delete_bucket(self, bucket):
        return self._reply(self._call(self.client.delete_bucket, ossv2.DeleteBucketRequest(bucket=bucket)))

    def list_buckets(self, prefix=None, marker=None, max_keys=None):
        request = ossv2.ListBucketsRequest(prefix=prefix, marker=marker, max_keys=max_keys)
        result = self._call(self.client.list_buckets, request)
        result.buckets = result.buckets or []
        return result

    def get_bucket_info(self, bucket):
        return self._call(self.client.get_bucket_info, ossv2.GetBucketInfoRequest(bucket=bucket)).bucket_info

    def get_bucket_location(self, bucket):
        return self._call(self.client.get_bucket_location, ossv2.GetBucketLocationRequest(bucket=bucket)).location

    def get_bucket_stat(self, bucket):
        stat = self._call(self.client.get_bucket_stat, ossv2.GetBucketStatRequest(bucket=bucket))
        return {"storage": stat.storage, "objects": stat.object_count, "uploads": stat.multi_part_upload_count,
                "standard_objects": stat.standard_object_count}

    def list_objects(self, bucket, prefix=None, delimiter=None, marker=None, max_keys=None):
        request = ossv2.ListObjectsRequest(bucket=bucket, prefix=prefix, delimiter=delimiter, marker=marker, max_keys=max_keys)
        result = self._call(self.client.list_objects, request)
        return self._page(result, result.next_marker)

    def list_objects_v2(self, bucket, prefix=None, delimiter=None, token=None, start_after=None, fetch_owner=False, max_keys=None):
        request = ossv2.ListObjectsV2Request(bucket=bucket, prefix=prefix, delimiter=delimiter, continuation_token=token,
                                             start_after=start_after, fetch_owner=fetch_owner, max_keys=max_keys)
        result = self._call(self.client.list_objects_v2, request)
        return self._page(result, result.next_continuation_token)

    @staticmethod
    def _page(result, following):
        entries = [Entry(o.key, o.size, _bare(o.etag), o.object_type, o.storage_class, o.owner.id if o.owner else None)
                   for o in result.contents or []]
        return Page(entries, [p.prefix for p in result.common_prefixes or []], bool(result.is_truncated), following)

    def put_object(self, bucket, key, data, headers=None):
        request = ossv2.PutObjectRequest(bucket=bucket, key=key, body=data, headers=headers or {})
        return self._reply(self._call(self.client.put_object, request))

    def append_object(self, bucket, key, position, data, headers=None):
        request = ossv2.AppendObjectRequest(bucket=bucket, key=key, position=position, body=data, headers=headers or {})
        result = self._call(self.client.append_object, request)
        assert result.next_position == int(result.headers["x-oss-next-append-position"])
        return self._reply(result)

    def get_object(self, bucket, key, headers=None, params=None):
        request = ossv2.GetObjectRequest(bucket=bucket, key=key, headers=headers or {}, parameters=params or {})

        def read():
            result = self.client.get_object(request)
            with result.body as body:
                return result, body.read()
        result, data = self._call(read)
        return Reply(result.status_code, result.headers, _bare(result.etag), data)

    def head_object(self, bucket, key, headers=None):
        request = ossv2.HeadObjectRequest(bucket=bucket, key=key, headers=headers or {})
        return self._reply(self._call(self.client.head_object, request))

    def get_object_meta(self, bucket, key):
        return self._reply(self._call(self.client.get_object_meta, ossv2.GetObjectMetaRequest(bucket=bucket, key=key)))

    def object_exists(self, bucket, key):
        return self._call(self.client.is_object_exist, bucket, key)

    def copy_object(self, source_bucket, source_key, bucket, key, headers=None):
        request = ossv2.CopyObjectRequest(bucket=bucket, key=key, source_bucket=source_bucket, source_key=source_key,
                                          headers=headers or {})
        result = self._call(self.client.copy_object, request)
        return Reply(result.status_code, result.headers, _bare(result.etag))

    def delete_object(self, bucket, key):
        return self._reply(self._call(self.client.delete_object, ossv2.DeleteObjectRequest(bucket=bucket, key=key)))

    def delete_objects(self, bucket, keys):
        request = ossv2.DeleteMultipleObjectsRequest(bucket=bucket, objects=[ossv2.DeleteObject(key=k) for k in keys])
        result = self._call(self.client.delete_multiple_objects, request)
        return [d.key for d in result.deleted_objects or []]

    def initiate(self, bucket, key, headers=None):
        request = ossv2.InitiateMultipartUploadRequest(bucket=bucket, key=key, headers=headers or {})
        return self._call(self.client.initiate_multipart_upload, request).upload_id

    def upload_part(self, bucket, key, upload_id, number, data):
        request = ossv2.UploadPartRequest(bucket=bucket, key=key, upload_id=upload_id, part_number=number, body=data)
        return Part(number, _bare(self._call(self.client.upload_part, request).etag), len(data))

    def upload_part_copy(self, source_bucket, source_key, bucket, key, upload_id, number, byte_range=None):
        source_range = f"bytes={byte_range[0]}-{byte_range[1]}" if byte_range else None
        request = ossv2.UploadPartCopyRequest(bucket=bucket, key=key, upload_id=upload_id, part_number=number,
                                              source_bucket=source_bucket, source_key=source_key, source_range=source_range)
        return Part(number, _bare(self._call(self.client.upload_part_copy, request).etag))

    def complete(self, bucket, key, upload_id, parts, headers=None):
        body = None
        if parts is not None:
            body = ossv2.CompleteMultipartUpload(parts=[ossv2.UploadPart(part_number=p.number, etag=p.etag) for p in parts])
        request = ossv2.CompleteMultipartUploadRequest(bucket=bucket, key=key, upload_id=upload_id,
                                                       complete_multipart_upload=body, headers=headers or {})
        result = self._call(self.client.complete_multipart_upload, request)
        return Reply(result.status_code, result.headers, _bare(result.etag))

    def abort(self, bucket, key, upload_id):
        request = ossv2.AbortMultipartUploadRequest(bucket=bucket, key=key, upload_id=upload_id)
        return self._reply(self._call(self.client.abort_multipart_upload, request))

    def list_uploads(self, bucket, prefix=None, delimiter=None, marker=(None, None), max_uploads=None):
        request = ossv2.ListMultipartUploadsRequest(bucket=bucket, prefix=prefix, delimiter=delimiter, key_marker=marker[0],
                                                    upload_id_marker=marker[1], max_uploads=max_uploads)
        result = self._call(self.client.list_multipart_uploads, request)
        prefixes = [p.prefix for p in getattr(result, "common_prefixes", None) or []]
        page = Page([(u.key, u.upload_id) for u in result.uploads or []], prefixes, bool(result.is_truncated))
        page.next = (result.next_key_marker, result.next_upload_id_marker)
        return page

    def list_parts(self, bucket, key, upload_id, marker=None, max_parts=None):
        request = ossv2.ListPartsRequest(bucket=bucket, key=key, upload_id=upload_id, part_number_marker=marker, max_parts=max_parts)
        result = self._call(self.client.list_parts, request)
        parts = [Part(p.part_number, _bare(p.etag), p.size) for p in result.parts or []]
        return Page(parts, [], bool(result.is_truncated), result.next_part_number_marker)

    def presign(self, method, bucket, key, expires_s, headers=None):
        kinds = {"GET": ossv2.GetObjectRequest, "PUT": ossv2.PutObjectRequest, "HEAD": ossv2.HeadObjectRequest}
        request = kinds[method](bucket=bucket, key=key, headers=headers or {})
        return self.client.presign(request, expires=datetime.timedelta(seconds=expires_s)).url

    def describe_regions(self, region=None):
        result = self._call(self.client.describe_regions, ossv2.DescribeRegionsRequest(regions=region))
        return [info.region for info in result.region_info]

    def put_bucket_acl(self, bucket, acl):
        return self._reply(self._call(self.client.put_bucket_acl, ossv2.PutBucketAclRequest(bucket=bucket, acl=acl)))

    def get_bucket_acl(self, bucket):
        return self._call(self.client.get_bucket_acl, ossv2.GetBucketAclRequest(bucket=bucket)).acl

    def put_bucket_tags(self, bucket, tags):
        return self._reply(self._call(self.client.put_bucket_tags, ossv2.PutBucketTagsRequest(bucket=bucket, tagging=self._tagging(tags))))

    def get_bucket_tags(self, bucket):
        return self._tags(self._call(self.client.get_bucket_tags, ossv2.GetBucketTagsRequest(bucket=bucket)).tagging.tag_set)

    def delete_bucket_tags(self, bucket):
        return self._reply(self._call(self.client.delete_bucket_tags, ossv2.DeleteBucketTagsRequest(bucket=bucket)))

    @staticmethod
    def _tagging(tags):
        return ossv2.Tagging(tag_set=ossv2.TagSet(tags=[ossv2.Tag(key=key, value=value) for key, value in tags.items()]))

    @staticmethod
    def _tags(tag_set):
        return {tag.key: tag.value or "" for tag in (tag_set.tags if tag_set else None) or []}

    def put_bucket_cors(self, bucket, rules, vary=None):
        made = [ossv2.CORSRule(allowed_origins=r.origins, allowed_methods=r.methods, allowed_headers=r.headers, expose_headers=r.expose, max_age_seconds=r.age) for r in rules]
        config = ossv2.CORSConfiguration(cors_rules=made, response_vary=vary)
        return self._reply(self._call(self.client.put_bucket_cors, ossv2.PutBucketCorsRequest(bucket=bucket, cors_configuration=config)))

    def get_bucket_cors(self, bucket):
        found = self._call(self.client.get_bucket_cors, ossv2.GetBucketCorsRequest(bucket=bucket)).cors_configuration
        rules = [CorsRule(r.allowed_origins or [], r.allowed_methods or [], r.allowed_headers or [], r.expose_headers or [], r.max_age_seconds) for r in found.cors_rules]
        return rules, found.response_vary

    def delete_bucket_cors(self, bucket):
        return self._reply(self._call(self.client.delete_bucket_cors, ossv2.DeleteBucketCorsRequest(bucket=bucket)))

    def put_bucket_versioning(self, bucket, status):
        config = ossv2.VersioningConfiguration(status=status)
        return self._reply(self._call(self.client.put_bucket_versioning, ossv2.PutBucketVersioningRequest(bucket=bucket, versioning_configuration=config)))

    def get_bucket_versioning(self, bucket):
        return self._call(self.client.get_bucket_versioning, ossv2.GetBucketVersioningRequest(bucket=bucket)).version_status

    def list_versions(self, bucket, prefix=None, marker=(None, None), max_keys=None):
        request = ossv2.ListObjectVersionsRequest(bucket=bucket, prefix=prefix, key_marker=marker[0] or None, version_id_marker=marker[1] or None, max_keys=max_keys)
        result = self._call(self.client.list_object_versions, request)
        versions = [Version(v.key, v.version_id, v.is_latest, _bare(v.etag), v.size) for v in result.version or []]
        markers = [Version(m.key, m.version_id, m.is_latest) for m in result.delete_marker or []]
        return VersionPage(versions, markers, bool(result.is_truncated), (result.next_key_marker, result.next_version_id_marker))

    def delete_version(self, bucket, key, version):
        return self._reply(self._call(self.client.delete_object, ossv2.DeleteObjectRequest(bucket=bucket, key=key, version_id=version)))

    def put_object_acl(self, bucket, key, acl):
        return self._reply(self._call(self.client.put_object_acl, ossv2.PutObjectAclRequest(bucket=bucket, key=key, acl=acl)))

    def get_object_acl(self, bucket, key):
        return self._call(self.client.get_object_acl, ossv2.GetObjectAclRequest(bucket=bucket, key=key)).acl

    def put_object_tags(self, bucket, key, tags):
        return self._reply(self._call(self.client.put_object_tagging, ossv2.PutObjectTaggingRequest(bucket=bucket, key=key, tagging=self._tagging(tags))))

    def get_object_tags(self, bucket, key):
        return self._tags(self._call(self.client.get_object_tagging, ossv2.GetObjectTaggingRequest(bucket=bucket, key=key)).tag_set)

    def delete_object_tags(self, bucket, key):
        return self._reply(self._call(self.client.delete_object_tagging, ossv2.DeleteObjectTaggingRequest(bucket=bucket, key=key)))

    def put_symlink(self, bucket, key, target, headers=None):
        request = ossv2.PutSymlinkRequest(bucket=bucket, key=key, target=urllib.parse.quote(target, safe="/"), headers=headers or {})
        return self._reply(self._call(self.client.put_symlink, request))

    def get_symlink(self, bucket, key):
        return urllib.parse.unquote(self._call(self.client.get_symlink, ossv2.GetSymlinkRequest(bucket=bucket, key=key)).target)
