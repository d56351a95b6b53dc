package granary;

import static granary.Calls.*;
import static granary.Walk.*;

import com.aliyun.oss.HttpMethod;
import com.aliyun.oss.OSS;
import com.aliyun.oss.OSSException;
import com.aliyun.oss.common.comm.SignVersion;
import com.aliyun.oss.model.*;
import java.io.File;
import java.net.URL;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Date;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;

/** What is asked of the server through the Java SDK: every operation that it has, its answers and its errors. */
final class Cases {
    private static final String MISSING = "no-such-bucket-for-java";
    private static final int PART = 100 * 1024;

    private Cases() { }

    static List<Walk.Case> all() {
        List<Walk.Case> cases = new ArrayList<>();
        buckets(cases);
        settings(cases);
        objects(cases);
        multipart(cases);
        directories(cases);
        return cases;
    }

    private static void add(List<Walk.Case> cases, String name, String operations, Walk.Body body) {
        cases.add(new Walk.Case(name, operations, body));
    }

    private static void buckets(List<Walk.Case> cases) {
        add(cases, "regions", "DescribeRegions", w -> {
            check(!w.client.describeRegions(new DescribeRegionsRequest()).getRegionInfoList().isEmpty(), "no region");
            List<RegionInfo> one = w.client.describeRegions(new DescribeRegionsRequest("oss-" + REGION)).getRegionInfoList();
            equal(one.size(), 1);
            equal(one.get(0).getRegion(), "oss-" + REGION);
            check(one.get(0).getInternetEndpoint() != null && one.get(0).getInternalEndpoint() != null, "no endpoints");
            refused("NoSuchRegion", () -> w.client.describeRegions(new DescribeRegionsRequest("oss-cn-nowhere")));
        });
        add(cases, "buckets are listed in pages", "ListBuckets PutBucket", w -> {
            String prefix = w.bucketName("list");
            List<String> names = new ArrayList<>();
            for (int n = 0; n < 5; n++) {
                String name = prefix + "-" + n;
                equal(w.client.createBucket(name).getName(), name);
                w.remember(name);
                names.add(name);
            }
            List<String> seen = new ArrayList<>();
            String marker = null;
            do {
                BucketList page = w.client.listBuckets(prefix, marker, 2);
                check(page.getBucketList().size() <= 2, "too many on a page");
                for (Bucket bucket : page.getBucketList()) {
                    seen.add(bucket.getName());
                    equal(bucket.getLocation(), "oss-" + REGION);
                    equal(bucket.getRegion(), REGION);
                    equal(bucket.getStorageClass(), StorageClass.Standard);
                    check(bucket.getOwner().getId() != null, "no owner");
                    check(Math.abs(bucket.getCreationDate().getTime() - System.currentTimeMillis()) < 600_000, "created " + bucket.getCreationDate());
                }
                marker = page.isTruncated() ? page.getNextMarker() : null;
            } while (marker != null);
            equal(seen, names);
            equal(w.client.listBuckets(prefix + "-none", null, 10).getBucketList(), List.of());
        });
        add(cases, "a bucket is described", "PutBucket HeadBucket GetBucketInfo GetBucketLocation GetBucketStat", w -> {
            String bucket = w.bucketName("ia");
            w.client.createBucket(new CreateBucketRequest(bucket).withStorageType(StorageClass.IA).withDataRedundancyType(DataRedundancyType.LRS).withCannedACL(CannedAccessControlList.PublicRead));
            w.remember(bucket);
            BucketInfo info = w.client.getBucketInfo(bucket);
            equal(info.getBucket().getName(), bucket);
            equal(info.getBucket().getStorageClass(), StorageClass.IA);
            equal(info.getBucket().getLocation(), "oss-" + REGION);
            equal(info.getDataRedundancyType(), DataRedundancyType.LRS);
            equal(info.getCannedACL(), CannedAccessControlList.PublicRead);
            check(ENDPOINT.endsWith(info.getBucket().getExtranetEndpoint()) || info.getBucket().getExtranetEndpoint().equals(ENDPOINT), info.getBucket().getExtranetEndpoint());
            equal(w.client.getBucketLocation(bucket), "oss-" + REGION);
            equal(w.client.getBucketMetadata(bucket).getBucketRegion(), REGION.isEmpty() ? null : "oss-" + REGION);
            put(w, bucket, "a", bytes(1000));
            put(w, bucket, "b", bytes(300_000));
            initiate(w, bucket, "c");
            BucketStat stat = w.client.getBucketStat(bucket);
            equal(List.of(stat.getStorageSize(), stat.getObjectCount(), stat.getMultipartUploadCount(), stat.getInfrequentAccessObjectCount()), List.of(301_000L, 2L, 1L, 2L));
            check(w.client.doesBucketExist(bucket) && !w.client.doesBucketExist(MISSING), "which buckets exist");
        });
        add(cases, "what a bucket refuses", "PutBucket DeleteBucket GetBucketInfo GetBucketLocation GetBucketStat ListObjects ListObjectsV2", w -> {
            String bucket = w.bucket();
            noBucket(() -> w.client.getBucketInfo(MISSING));
            noBucket(() -> w.client.getBucketLocation(MISSING));
            noBucket(() -> w.client.getBucketStat(MISSING));
            noBucket(() -> w.client.listObjects(MISSING));
            noBucket(() -> w.client.listObjectsV2(MISSING));
            noBucket(() -> w.client.deleteBucket(MISSING));
            refused("BucketAlreadyExists", () -> w.client.createBucket(new CreateBucketRequest(bucket).withStorageType(StorageClass.IA)));
            put(w, bucket, "k", text("1"));
            refused("BucketNotEmpty", () -> w.client.deleteBucket(bucket));
            w.client.deleteObject(bucket, "k");
            String upload = initiate(w, bucket, "u");
            refused("BucketNotEmpty", () -> w.client.deleteBucket(bucket));
            w.client.abortMultipartUpload(new AbortMultipartUploadRequest(bucket, "u", upload));
            w.client.deleteBucket(bucket);
            noBucket(() -> w.client.getBucketInfo(bucket));
        });
        add(cases, "who signs wrongly is refused", "GetBucketInfo PutObject", w -> {
            String bucket = w.bucket();
            OSS nobody = w.as("nobody", "secret");
            OSS liar = w.as(KEY_ID, "wrong");
            try {
                equal(refused("InvalidAccessKeyId", "0002-00000902", () -> nobody.getBucketInfo(bucket)).getErrorMessage(), "The OSS Access Key Id you provided does not exist in our records.");
                noBucket(() -> nobody.getBucketInfo(MISSING));
                refused("SignatureDoesNotMatch", () -> liar.putObject(bucket, "k", in(text("x"))));
            } finally {
                nobody.shutdown();
                liar.shutdown();
            }
        });
        add(cases, "objects are listed in pages", "ListObjects ListObjectsV2", w -> {
            String bucket = w.bucket();
            List<String> keys = List.of("a", "b/1", "b/2", "b/3", "c & d", "e'f", "\u00fc/\u65e5\u672c");
            for (String key : keys) {
                put(w, bucket, key, text(key));
            }
            List<String> seen = new ArrayList<>();
            ObjectListing page;
            String marker = null;
            do {
                page = w.client.listObjects(new ListObjectsRequest(bucket).withMaxKeys(3).withMarker(marker).withEncodingType("url"));
                for (OSSObjectSummary object : page.getObjectSummaries()) {
                    seen.add(java.net.URLDecoder.decode(object.getKey(), StandardCharsets.UTF_8));
                    equal(object.getStorageClass(), "Standard");
                    check(object.getOwner().getId() != null, "no owner");
                    check(Math.abs(object.getLastModified().getTime() - System.currentTimeMillis()) < 600_000, "modified " + object.getLastModified());
                }
                marker = page.getNextMarker() == null ? null : java.net.URLDecoder.decode(page.getNextMarker(), StandardCharsets.UTF_8);
            } while (page.isTruncated());
            equal(seen, keys);
            seen.clear();
            ListObjectsV2Result second;
            String token = null;
            do {
                second = w.client.listObjectsV2(new ListObjectsV2Request(bucket).withMaxKeys(2).withContinuationToken(token));
                equal(second.getKeyCount(), second.getObjectSummaries().size());
                for (OSSObjectSummary object : second.getObjectSummaries()) {
                    seen.add(object.getKey());
                    equal(object.getETag(), etagOf(text(object.getKey())));
                    equal(object.getSize(), (long) text(object.getKey()).length);
                    equal(object.getOwner(), null);
                }
                token = second.getNextContinuationToken();
            } while (second.isTruncated());
            equal(seen, keys);
            ListObjectsV2Result folders = w.client.listObjectsV2(new ListObjectsV2Request(bucket).withDelimiter("/").withFetchOwner(true));
            equal(folders.getCommonPrefixes(), List.of("b/", "\u00fc/"));
            equal(folders.getObjectSummaries().size(), 3);
            check(folders.getObjectSummaries().get(0).getOwner() != null, "no owner");
            equal(w.client.listObjectsV2(new ListObjectsV2Request(bucket).withStartAfter("b/2").withPrefix("b/")).getObjectSummaries().size(), 1);
        });
    }

    private static void settings(List<Walk.Case> cases) {
        add(cases, "the ACL of a bucket", "PutBucketAcl GetBucketAcl PutObject GetObject", w -> {
            String bucket = w.bucket();
            put(w, bucket, "k", text("open?"));
            equal(w.client.getBucketAcl(bucket).getCannedACL(), CannedAccessControlList.Private);
            for (CannedAccessControlList acl : List.of(CannedAccessControlList.PublicRead, CannedAccessControlList.PublicReadWrite, CannedAccessControlList.Private)) {
                w.client.setBucketAcl(bucket, acl);
                AccessControlList got = w.client.getBucketAcl(bucket);
                equal(got.getCannedACL(), acl);
                check(got.getOwner().getId() != null, "no owner");
                equal(plain("GET", address(bucket, "k"), "").statusCode() == 200, acl != CannedAccessControlList.Private);
                equal(plain("PUT", address(bucket, "k"), "open?").statusCode() == 200, acl == CannedAccessControlList.PublicReadWrite);
            }
            noBucket(() -> w.client.getBucketAcl(MISSING));
        });
        add(cases, "the tags of a bucket", "PutBucketTags GetBucketTags DeleteBucketTags", w -> {
            String bucket = w.bucket();
            equal(w.client.getBucketTagging(bucket).getAllTags(), Map.of());
            Map<String, String> tags = Map.of("team", "storage", "k+1", "v:/=1", "third", "");
            w.client.setBucketTagging(bucket, tags);
            equal(new TreeMap<>(w.client.getBucketTagging(bucket).getAllTags()), new TreeMap<>(tags));
            w.client.deleteBucketTagging(bucket);
            equal(w.client.getBucketTagging(bucket).getAllTags(), Map.of());
            noBucket(() -> w.client.getBucketTagging(MISSING));
        });
        add(cases, "the CORS rules of a bucket", "PutBucketCors GetBucketCors DeleteBucketCors OptionObject", w -> {
            String bucket = w.bucket();
            refused("NoSuchCORSConfiguration", () -> w.client.getBucketCORSRules(bucket));
            SetBucketCORSRequest.CORSRule rule = new SetBucketCORSRequest.CORSRule();
            rule.setAllowedOrigins(List.of("http://one.example", "http://*.two.example"));
            rule.setAllowedMethods(List.of("PUT", "GET"));
            rule.setAllowedHeaders(List.of("x-oss-*"));
            rule.setExposeHeaders(List.of("ETag", "x-oss-test"));
            rule.setMaxAgeSeconds(60);
            SetBucketCORSRequest request = new SetBucketCORSRequest(bucket);
            request.setCorsRules(List.of(rule));
            request.setResponseVary(true);
            w.client.setBucketCORS(request);
            CORSConfiguration got = w.client.getBucketCORS(new GenericRequest(bucket));
            equal(got.getResponseVary(), true);
            equal(got.getCorsRules().size(), 1);
            SetBucketCORSRequest.CORSRule back = got.getCorsRules().get(0);
            equal(List.of(back.getAllowedOrigins(), back.getAllowedMethods(), back.getAllowedHeaders(), back.getExposeHeaders(), back.getMaxAgeSeconds()),
                List.of(rule.getAllowedOrigins(), rule.getAllowedMethods(), rule.getAllowedHeaders(), rule.getExposeHeaders(), 60));
            OptionsRequest ask = new OptionsRequest(bucket, "k").withOrigin("http://a.two.example").withRequestMethod(HttpMethod.PUT).withRequestHeaders("x-oss-meta-a");
            Map<String, String> allowed = w.client.optionsObject(ask).getHeaders();
            equal(allowed.get("Access-Control-Allow-Origin"), "http://a.two.example");
            equal(allowed.get("Access-Control-Max-Age"), "60");
            refused("AccessForbidden", () -> w.client.optionsObject(ask.withOrigin("http://three.example")));
            w.client.deleteBucketCORSRules(bucket);
            refused("NoSuchCORSConfiguration", () -> w.client.getBucketCORSRules(bucket));
        });
        add(cases, "versions", "PutBucketVersioning GetBucketVersioning ListObjectVersions GetObject HeadObject DeleteObject DeleteMultipleObjects CopyObject", w -> {
            String bucket = w.bucket();
            String key = "k";
            equal(w.client.getBucketVersioning(bucket).getStatus(), null);
            put(w, bucket, key, text("null"));
            versioning(w, bucket, BucketVersioningConfiguration.ENABLED);
            String one = put(w, bucket, key, text("one")).getVersionId();
            String two = put(w, bucket, key, text("two")).getVersionId();
            for (Map.Entry<String, String> version : Map.of("null", "null", one, "one", two, "two").entrySet()) {
                OSSObject got = w.client.getObject(new GetObjectRequest(bucket, key, version.getKey()));
                equal(got.getObjectMetadata().getVersionId(), version.getKey());
                same(read(got.getObjectContent()), text(version.getValue()));
            }
            w.client.deleteObject(bucket, key);
            noKey(() -> w.client.getObject(bucket, key));
            List<String> order = new ArrayList<>();
            String marker = null;
            ListVersionsRequest request = new ListVersionsRequest().withBucketName(bucket).withMaxResults(3);
            VersionListing page;
            do {
                page = w.client.listVersions(request);
                for (OSSVersionSummary version : page.getVersionSummaries()) {
                    equal(version.isLatest(), version.isDeleteMarker());
                    if (version.isDeleteMarker()) {
                        marker = version.getVersionId();
                    }
                    order.add((version.isDeleteMarker() ? "marker " : "version ") + version.getVersionId());
                }
                request.withKeyMarker(page.getNextKeyMarker()).withVersionIdMarker(page.getNextVersionIdMarker());
            } while (page.isTruncated());
            // The client puts the markers of a page behind its versions.
            equal(order, List.of("version " + two, "version " + one, "marker " + marker, "version null"));
            String dead = marker;
            refused("MethodNotAllowed", () -> w.client.getObject(new GetObjectRequest(bucket, key, dead)));
            w.client.copyObject(new CopyObjectRequest(bucket, key, one, bucket, "copy"));
            same(get(w, bucket, "copy"), text("one"));
            w.client.deleteVersion(bucket, key, dead);
            same(get(w, bucket, key), text("two"));
            List<DeleteVersionsResult.DeletedVersion> gone = w.client.deleteVersions(new DeleteVersionsRequest(bucket).withKeys(List.of(
                new DeleteVersionsRequest.KeyVersion(key, two), new DeleteVersionsRequest.KeyVersion(key)))).getDeletedVersions();
            equal(gone.size(), 2);
            check(gone.get(1).isDeleteMarker() && gone.get(1).getDeleteMarkerVersionId() != null, "no marker");
            refused("NoSuchVersion", () -> w.client.getObject(new GetObjectRequest(bucket, key, two)));
            versioning(w, bucket, BucketVersioningConfiguration.SUSPENDED);
            equal(put(w, bucket, key, text("over")).getVersionId(), "null");
        });
        add(cases, "the ACL of an object", "PutObjectAcl GetObjectAcl", w -> {
            String bucket = w.bucket();
            put(w, bucket, "k", text("open?"));
            equal(w.client.getObjectAcl(bucket, "k").getPermission(), ObjectPermission.Default);
            Map<CannedAccessControlList, ObjectPermission> all = Map.of(CannedAccessControlList.PublicRead, ObjectPermission.PublicRead, CannedAccessControlList.PublicReadWrite,
                ObjectPermission.PublicReadWrite, CannedAccessControlList.Private, ObjectPermission.Private, CannedAccessControlList.Default, ObjectPermission.Default);
            for (Map.Entry<CannedAccessControlList, ObjectPermission> acl : all.entrySet()) {
                w.client.setObjectAcl(bucket, "k", acl.getKey());
                ObjectAcl got = w.client.getObjectAcl(bucket, "k");
                equal(got.getPermission(), acl.getValue());
                check(got.getOwner().getId() != null, "no owner");
                equal(plain("GET", address(bucket, "k"), "").statusCode() == 200, acl.getKey().toString().startsWith("public"));
            }
            noKey(() -> w.client.getObjectAcl(bucket, "none"));
            noKey(() -> w.client.setObjectAcl(bucket, "none", CannedAccessControlList.Private));
        });
        add(cases, "the tags of an object", "PutObjectTagging GetObjectTagging DeleteObjectTagging PutObject CopyObject", w -> {
            String bucket = w.bucket();
            Map<String, String> tags = Map.of("a b", "1", "c:d", "e/f=g");
            put(w, bucket, "k", text("x"));
            equal(w.client.getObjectTagging(bucket, "k").getAllTags(), Map.of());
            w.client.setObjectTagging(bucket, "k", tags);
            equal(new TreeMap<>(w.client.getObjectTagging(bucket, "k").getAllTags()), new TreeMap<>(tags));
            equal(w.client.getObjectMetadata(bucket, "k").getRawMetadata().get("x-oss-tagging-count"), "2");
            w.client.copyObject(bucket, "k", bucket, "copy");
            equal(new TreeMap<>(w.client.getObjectTagging(bucket, "copy").getAllTags()), new TreeMap<>(tags));
            w.client.deleteObjectTagging(bucket, "k");
            equal(w.client.getObjectTagging(bucket, "k").getAllTags(), Map.of());
            ObjectMetadata made = new ObjectMetadata();
            made.setObjectTagging(tags);
            w.client.putObject(bucket, "made", in(text("x")), made);
            equal(new TreeMap<>(w.client.getObjectTagging(bucket, "made").getAllTags()), new TreeMap<>(tags));
            Map<String, String> eleven = new HashMap<>();
            for (int n = 0; n < 11; n++) {
                eleven.put("k" + n, "v");
            }
            refused("InvalidArgument", () -> w.client.setObjectTagging(bucket, "k", eleven));
            noKey(() -> w.client.getObjectTagging(bucket, "none"));
        });
        add(cases, "symbolic links", "PutSymlink GetSymlink GetObject HeadObject", w -> {
            String bucket = w.bucket();
            put(w, bucket, "dir/target \u00fc", text("content"));
            CreateSymlinkRequest request = new CreateSymlinkRequest(bucket, "link", "dir/target \u00fc");
            ObjectMetadata meta = new ObjectMetadata();
            meta.addUserMetadata("a", "1");
            request.setMetadata(meta);
            w.client.createSymlink(request);
            OSSSymlink link = w.client.getSymlink(bucket, "link");
            equal(link.getTarget(), "dir/target \u00fc");
            equal(link.getMetadata().getUserMetadata(), Map.of("a", "1"));
            OSSObject got = w.client.getObject(bucket, "link");
            equal(got.getObjectMetadata().getObjectType(), "Symlink");
            same(read(got.getObjectContent()), text("content"));
            w.client.createSymlink(bucket, "dangling", "nothing");
            refused("SymlinkTargetNotExist", () -> w.client.getObject(bucket, "dangling"));
            w.client.createSymlink(bucket, "twice", "link");
            refused("InvalidTargetType", () -> w.client.getObject(bucket, "twice"));
            noKey(() -> w.client.getSymlink(bucket, "none"));
        });
    }

    private static void objects(List<Walk.Case> cases) {
        for (int size : new int[] {0, 1, 16_384, 65_537, 300_000, (4 << 20) + 1}) {
            add(cases, size + " bytes there and back", "PutObject GetObject HeadObject GetObjectMeta DeleteObject", w -> {
                String bucket = w.bucket();
                byte[] body = bytes(size);
                PutObjectResult put = put(w, bucket, "dir/k", body);
                equal(put.getETag(), etagOf(body));
                check(put.getServerCRC() != null, "no checksum");
                OSSObject got = w.client.getObject(bucket, "dir/k");
                ObjectMetadata meta = got.getObjectMetadata();
                same(read(got.getObjectContent()), body);
                for (ObjectMetadata one : List.of(meta, w.client.headObject(bucket, "dir/k"), w.client.getObjectMetadata(bucket, "dir/k"))) {
                    equal(List.of(one.getContentLength(), one.getETag(), one.getContentMD5(), one.getObjectType(), one.getObjectStorageClass(), one.getServerCRC()),
                        List.of((long) size, etagOf(body), md5Of(body), "Normal", StorageClass.Standard, put.getServerCRC()));
                    check(one.getRequestId().matches("[0-9A-F]{24}"), one.getRequestId());
                }
                SimplifiedObjectMeta few = w.client.getSimplifiedObjectMeta(bucket, "dir/k");
                equal(List.of(few.getSize(), few.getETag(), few.getLastModified()), List.of((long) size, etagOf(body), meta.getLastModified()));
                check(w.client.doesObjectExist(bucket, "dir/k"), "it is said not to exist");
                w.client.deleteObject(bucket, "dir/k");
                check(!w.client.doesObjectExist(bucket, "dir/k"), "it is said to exist");
                noKey(() -> w.client.getObject(bucket, "dir/k"));
                noKey(() -> w.client.getSimplifiedObjectMeta(bucket, "dir/k"));
                w.client.deleteObject(bucket, "dir/k");
            });
        }
        add(cases, "headers and user metadata are kept", "PutObject HeadObject GetObject", w -> {
            String bucket = w.bucket();
            ObjectMetadata meta = new ObjectMetadata();
            meta.setCacheControl("no-cache");
            meta.setContentDisposition("attachment");
            meta.setContentEncoding("identity");
            meta.setContentType("text/x-granary");
            meta.setExpirationTime(new Date(1_930_000_000_000L));
            meta.setHeader("x-oss-storage-class", "IA");
            meta.addUserMetadata("people", "8");
            meta.addUserMetadata("with-dash", "a b");
            w.client.putObject(bucket, "k", in(text("x")), meta);
            ObjectMetadata head = w.client.headObject(bucket, "k");
            equal(head.getUserMetadata(), Map.of("people", "8", "with-dash", "a b"));
            equal(List.of(head.getCacheControl(), head.getContentDisposition(), head.getContentEncoding(), head.getContentType(), head.getExpirationTime(), head.getObjectStorageClass()),
                List.of("no-cache", "attachment", "identity", "text/x-granary", new Date(1_930_000_000_000L), StorageClass.IA));
            GetObjectRequest request = new GetObjectRequest(bucket, "k");
            ResponseHeaderOverrides other = new ResponseHeaderOverrides();
            other.setContentType("text/plain");
            other.setCacheControl("max-age=1");
            other.setContentDisposition("inline");
            request.setResponseHeaders(other);
            OSSObject got = w.client.getObject(request);
            same(read(got.getObjectContent()), text("x"));
            equal(List.of(got.getObjectMetadata().getContentType(), got.getObjectMetadata().getCacheControl(), got.getObjectMetadata().getContentDisposition()), List.of("text/plain", "max-age=1", "inline"));
        });
        add(cases, "ranges and conditions", "GetObject CopyObject", w -> {
            String bucket = w.bucket();
            byte[] body = bytes(200_000);
            String etag = put(w, bucket, "k", body).getETag();
            same(read(w.client.getObject(new GetObjectRequest(bucket, "k").withRange(70_000, 140_000)).getObjectContent()), java.util.Arrays.copyOfRange(body, 70_000, 140_001));
            same(read(w.client.getObject(new GetObjectRequest(bucket, "k").withRange(199_999, -1)).getObjectContent()), java.util.Arrays.copyOfRange(body, 199_999, 200_000));
            same(read(w.client.getObject(new GetObjectRequest(bucket, "k").withRange(-1, 10)).getObjectContent()), java.util.Arrays.copyOfRange(body, 199_990, 200_000));
            same(read(w.client.getObject(new GetObjectRequest(bucket, "k").withRange(5, 200_000)).getObjectContent()), body);
            GetObjectRequest standard = new GetObjectRequest(bucket, "k").withRange(200_000, 200_005);
            standard.addHeader("x-oss-range-behavior", "standard");
            refused("InvalidRange", () -> w.client.getObject(standard));
            GetObjectRequest matching = new GetObjectRequest(bucket, "k");
            matching.setMatchingETagConstraints(List.of("0"));
            refused("PreconditionFailed", () -> w.client.getObject(matching));
            matching.setMatchingETagConstraints(List.of(etag));
            read(w.client.getObject(matching).getObjectContent());
            GetObjectRequest fresh = new GetObjectRequest(bucket, "k");
            fresh.setUnmodifiedSinceConstraint(new Date(System.currentTimeMillis() - 86_400_000));
            refused("PreconditionFailed", () -> w.client.getObject(fresh));
            CopyObjectRequest copy = new CopyObjectRequest(bucket, "k", bucket, "copy");
            copy.setMatchingETagConstraints(List.of("0"));
            refused("PreconditionFailed", () -> w.client.copyObject(copy));
        });
        add(cases, "what is not accepted", "PutObject HeadObject", w -> {
            String bucket = w.bucket();
            ObjectMetadata meta = new ObjectMetadata();
            meta.setContentMD5(md5Of(text("other")));
            refused("InvalidDigest", () -> w.client.putObject(bucket, "k", in(text("x")), meta));
            ObjectMetadata once = new ObjectMetadata();
            once.setHeader("x-oss-forbid-overwrite", "true");
            w.client.putObject(bucket, "k", in(text("x")), once);
            refused("FileAlreadyExists", () -> w.client.putObject(bucket, "k", in(text("y")), once));
            same(get(w, bucket, "k"), text("x"));
            refused("NoSuchKey", () -> w.client.headObject(bucket, "none"));
            noBucket(() -> w.client.putObject(MISSING, "k", in(text("x"))));
        });
        add(cases, "copies", "CopyObject", w -> {
            String one = w.bucket();
            String two = w.bucket();
            String key = "dir/source & more \u00fc+";
            byte[] body = bytes(150_000);
            ObjectMetadata meta = new ObjectMetadata();
            meta.addUserMetadata("a", "1");
            meta.setContentType("text/x-granary");
            w.client.putObject(one, key, in(body), meta);
            equal(w.client.copyObject(one, key, two, "copy").getETag(), etagOf(body));
            ObjectMetadata head = w.client.headObject(two, "copy");
            equal(List.of(head.getUserMetadata(), head.getContentType()), List.of(Map.of("a", "1"), "text/x-granary"));
            same(get(w, two, "copy"), body);
            CopyObjectRequest request = new CopyObjectRequest(two, "copy", two, "copy");
            ObjectMetadata other = new ObjectMetadata();
            other.addUserMetadata("b", "2");
            request.setNewObjectMetadata(other);
            w.client.copyObject(request);
            equal(w.client.headObject(two, "copy").getUserMetadata(), Map.of("b", "2"));
            same(get(w, two, "copy"), body);
            noKey(() -> w.client.copyObject(one, "none", two, "x"));
            noBucket(() -> w.client.copyObject(MISSING, "none", two, "x"));
        });
        add(cases, "many deletions at once", "DeleteMultipleObjects", w -> {
            String bucket = w.bucket();
            List<String> keys = List.of("a", "b & c", "f/g", "\u65e5\u672c", "never");
            for (String key : keys.subList(0, 4)) {
                put(w, bucket, key, text("x"));
            }
            Set<String> deleted = new HashSet<>(w.client.deleteObjects(new DeleteObjectsRequest(bucket).withKeys(keys).withEncodingType("url")).getDeletedObjects());
            equal(deleted, new HashSet<>(keys));
            equal(w.client.listObjects(bucket).getObjectSummaries(), List.of());
            equal(w.client.deleteObjects(new DeleteObjectsRequest(bucket).withKeys(keys).withQuiet(true)).getDeletedObjects(), List.of());
        });
        add(cases, "keys as people choose them", "PutObject GetObject ListObjects", w -> {
            String bucket = w.bucket();
            List<String> keys = new ArrayList<>(List.of("\u7a7a \u683c/\u65e5.txt", "a+b&c=d?e#f", "100%/%41", "quote'\"<>", "tail/", "two//slashes", "~!@$^*()_-=[]{}|;:,"));
            for (String key : keys) {
                put(w, bucket, key, text(key));
                same(get(w, bucket, key), text(key));
            }
            List<String> listed = w.client.listObjects(bucket).getObjectSummaries().stream().map(OSSObjectSummary::getKey).sorted().collect(Collectors.toList());
            keys.sort(null);
            equal(listed, keys);
        });
        add(cases, "addresses that are signed", "GetObject PutObject", w -> {
            String bucket = w.bucket();
            put(w, bucket, "dir/a b", text("signed"));
            Date soon = new Date(System.currentTimeMillis() + 60_000);
            HttpResponse<String> got = plain("GET", w.client.generatePresignedUrl(bucket, "dir/a b", soon).toString(), "");
            equal(List.of(got.statusCode(), got.body()), List.of(200, "signed"));
            GeneratePresignedUrlRequest request = new GeneratePresignedUrlRequest(bucket, "dir/a b", HttpMethod.PUT);
            request.setExpiration(soon);
            request.setContentType("text/x");
            request.addUserMetadata("a", "1");
            URL url = w.client.generatePresignedUrl(request);
            equal(plain("PUT", url.toString(), "put", "Content-Type", "text/x", "x-oss-meta-a", "1").statusCode(), 200);
            equal(w.client.headObject(bucket, "dir/a b").getUserMetadata(), Map.of("a", "1"));
            equal(plain("PUT", url.toString(), "put", "Content-Type", "text/y", "x-oss-meta-a", "1").statusCode(), 403);
            OSSObject object = w.client.getObject(w.client.generatePresignedUrl(bucket, "dir/a b", soon), new HashMap<>());
            same(read(object.getObjectContent()), text("put"));
        });
        add(cases, "files", "PutObject GetObject InitiateMultipartUpload UploadPart CompleteMultipartUpload", w -> {
            String bucket = w.bucket();
            byte[] body = bytes(3 * PART + 5);
            File from = File.createTempFile("granary-java-", ".json");
            File to = File.createTempFile("granary-java-", ".out");
            try {
                Files.write(from.toPath(), body);
                w.client.putObject(bucket, "file.json", from);
                equal(w.client.getObject(new GetObjectRequest(bucket, "file.json"), to).getContentType(), "application/json");
                same(Files.readAllBytes(to.toPath()), body);
                UploadFileRequest up = new UploadFileRequest(bucket, "up", from.getPath(), PART, 3, false);
                w.client.uploadFile(up);
                DownloadFileRequest down = new DownloadFileRequest(bucket, "up", to.getPath(), PART, 3, false);
                w.client.downloadFile(down);
                same(Files.readAllBytes(to.toPath()), body);
            } catch (Exception problem) {
                throw problem;
            } catch (Throwable problem) {
                throw new IllegalStateException(problem);
            } finally {
                check(from.delete() & to.delete(), "a file stays");
            }
        });
        add(cases, "appending", "AppendObject SealAppendObject GetObject HeadObject", w -> {
            String bucket = w.bucket();
            byte[] one = bytes(70_000);
            byte[] two = bytes(5);
            AppendObjectResult first = w.client.appendObject(new AppendObjectRequest(bucket, "log", in(one)).withPosition(0L).withInitCRC(0L));
            equal(first.getNextPosition(), 70_000L);
            AppendObjectResult second = w.client.appendObject(new AppendObjectRequest(bucket, "log", in(two)).withPosition(70_000L).withInitCRC(first.getClientCRC()));
            equal(second.getNextPosition(), 70_005L);
            equal(w.client.headObject(bucket, "log").getObjectType(), "Appendable");
            same(get(w, bucket, "log"), join(one, two));
            refused("PositionNotEqualToLength", () -> w.client.appendObject(new AppendObjectRequest(bucket, "log", in(two)).withPosition(3L)));
            put(w, bucket, "plain", one);
            refused("ObjectNotAppendable", () -> w.client.appendObject(new AppendObjectRequest(bucket, "plain", in(two)).withPosition(70_000L)));
            w.client.sealAppendObject(new SealAppendObjectRequest(bucket, "log").withPosition(70_005L));
            check(w.client.headObject(bucket, "log").getSealedTime() != null, "no time of the seal");
            refused("AppendSealedObjectNotAllowed", () -> w.client.appendObject(new AppendObjectRequest(bucket, "log", in(two)).withPosition(70_005L)));
        });
        add(cases, "posting a form", "PostObject GetObject", w -> {
            String bucket = w.bucket();
            PolicyConditions conditions = new PolicyConditions();
            conditions.addConditionItem("bucket", bucket);
            conditions.addConditionItem(MatchMode.StartWith, PolicyConditions.COND_KEY, "forms/");
            conditions.addConditionItem(PolicyConditions.COND_CONTENT_LENGTH_RANGE, 1, 1000);
            Map<String, String> fields = new TreeMap<>(Map.of("key", "forms/k", "success_action_status", "201", "x-oss-meta-a", "1"));
            Date now = new Date();
            Date soon = new Date(now.getTime() + 60_000);
            if (w.version == SignVersion.V4) {
                String stamp = java.time.format.DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(java.time.ZoneOffset.UTC).format(now.toInstant());
                fields.put("x-oss-signature-version", "OSS4-HMAC-SHA256");
                fields.put("x-oss-credential", KEY_ID + "/" + stamp.substring(0, 8) + "/" + REGION + "/oss/aliyun_v4_request");
                fields.put("x-oss-date", stamp);
                for (String name : List.of("x-oss-signature-version", "x-oss-credential", "x-oss-date")) {
                    conditions.addConditionItem(name, fields.get(name));
                }
                String policy = w.client.generatePostPolicy(soon, conditions);
                fields.put("policy", Base64.getEncoder().encodeToString(text(policy)));
                fields.put("x-oss-signature", w.client.calculatePostSignature(policy, now));
            } else {
                String policy = w.client.generatePostPolicy(soon, conditions);
                fields.put("policy", Base64.getEncoder().encodeToString(text(policy)));
                fields.put("OSSAccessKeyId", KEY_ID);
                fields.put("Signature", w.client.calculatePostSignature(policy));
            }
            HttpResponse<String> made = post(bucket, fields, "content");
            equal(made.statusCode(), 201);
            check(made.body().contains("<Key>forms/k</Key>") && made.body().contains("<Bucket>" + bucket + "</Bucket>"), made.body());
            OSSObject got = w.client.getObject(bucket, "forms/k");
            equal(got.getObjectMetadata().getUserMetadata(), Map.of("a", "1"));
            same(read(got.getObjectContent()), text("content"));
            HttpResponse<String> large = post(bucket, fields, "x".repeat(1001));
            check(large.statusCode() == 400 && large.body().contains("<Code>EntityTooLarge</Code>"), large.statusCode() + " " + large.body());
            fields.put("key", "elsewhere/k");
            HttpResponse<String> other = post(bucket, fields, "content");
            check(other.statusCode() == 403 && other.body().contains("<Code>AccessDenied</Code>"), other.statusCode() + " " + other.body());
        });
        add(cases, "a callback after an upload", "Callback PutObject CompleteMultipartUpload", w -> {
            String bucket = w.bucket();
            Callback callback = new Callback();
            callback.setCallbackUrl(CALLBACK + "/ok");
            // The SDK puts it between quotes as it is.
            callback.setCallbackBody("{\\\"object\\\":${object},\\\"size\\\":${size},\\\"mine\\\":${x:mine}}");
            callback.setCalbackBodyType(Callback.CalbackBodyType.JSON);
            callback.addCallbackVar("x:mine", "yes");
            PutObjectRequest request = new PutObjectRequest(bucket, "k", in(text("12345")));
            request.setCallback(callback);
            String said = new String(read(w.client.putObject(request).getCallbackResponseBody()), StandardCharsets.UTF_8);
            check(said.contains("\"object\": \"k\"") && said.contains("\"size\": 5") && said.contains("\"mine\": \"yes\""), said);
            String upload = initiate(w, bucket, "m");
            CompleteMultipartUploadRequest complete = new CompleteMultipartUploadRequest(bucket, "m", upload, new ArrayList<>(List.of(part(w, bucket, "m", upload, 1, text("1234")))));
            complete.setCallback(callback);
            said = new String(read(w.client.completeMultipartUpload(complete).getCallbackResponseBody()), StandardCharsets.UTF_8);
            check(said.contains("\"object\": \"m\"") && said.contains("\"size\": 4"), said);
            callback.setCallbackUrl(CALLBACK + "/fail");
            PutObjectRequest kept = new PutObjectRequest(bucket, "kept", in(text("1")));
            kept.setCallback(callback);
            refused("CallbackFailed", "0007-00000203", () -> w.client.putObject(kept));
            same(get(w, bucket, "kept"), text("1"));
        });
    }

    private static void multipart(List<Walk.Case> cases) {
        add(cases, "an upload in parts", "InitiateMultipartUpload UploadPart ListParts ListMultipartUploads CompleteMultipartUpload", w -> {
            String bucket = w.bucket();
            String key = "big & \u00fc";
            byte[][] parts = {bytes(PART), bytes(PART + 1), bytes(7)};
            ObjectMetadata meta = new ObjectMetadata();
            meta.addUserMetadata("a", "1");
            meta.setContentType("text/x-granary");
            InitiateMultipartUploadResult begun = w.client.initiateMultipartUpload(new InitiateMultipartUploadRequest(bucket, key, meta));
            equal(List.of(begun.getBucketName(), begun.getKey()), List.of(bucket, key));
            String upload = begun.getUploadId();
            List<PartETag> done = new ArrayList<>();
            for (int n = 0; n < parts.length; n++) {
                done.add(part(w, bucket, key, upload, n + 1, parts[n]));
            }
            ListPartsRequest request = new ListPartsRequest(bucket, key, upload);
            request.setMaxParts(2);
            int seen = 0;
            PartListing page;
            do {
                page = w.client.listParts(request);
                for (PartSummary one : page.getParts()) {
                    equal(List.of(one.getPartNumber(), one.getETag(), one.getSize()), List.of(seen + 1, etagOf(parts[seen]), (long) parts[seen].length));
                    seen++;
                }
                request.setPartNumberMarker(page.getNextPartNumberMarker());
            } while (page.isTruncated());
            equal(seen, 3);
            List<MultipartUpload> uploads = w.client.listMultipartUploads(new ListMultipartUploadsRequest(bucket)).getMultipartUploads();
            equal(List.of(uploads.size(), uploads.get(0).getKey(), uploads.get(0).getUploadId()), List.of(1, key, upload));
            CompleteMultipartUploadResult complete = w.client.completeMultipartUpload(new CompleteMultipartUploadRequest(bucket, key, upload, done));
            equal(List.of(complete.getETag(), complete.getKey(), complete.getBucketName()), List.of(etagOfParts(parts), key, bucket));
            check(complete.getLocation() != null, "no location");
            OSSObject got = w.client.getObject(bucket, key);
            same(read(got.getObjectContent()), join(parts));
            equal(List.of(got.getObjectMetadata().getObjectType(), got.getObjectMetadata().getUserMetadata(), got.getObjectMetadata().getContentType(), got.getObjectMetadata().getETag()),
                List.of("Multipart", Map.of("a", "1"), "text/x-granary", etagOfParts(parts)));
            refused("NoSuchUpload", () -> w.client.listParts(new ListPartsRequest(bucket, key, upload)));
        });
        add(cases, "all parts without a list, and none", "CompleteMultipartUpload", w -> {
            String bucket = w.bucket();
            String upload = initiate(w, bucket, "k");
            byte[][] parts = {bytes(PART), bytes(3)};
            part(w, bucket, "k", upload, 2, parts[0]);
            part(w, bucket, "k", upload, 7, parts[1]);
            CompleteMultipartUploadRequest all = new CompleteMultipartUploadRequest(bucket, "k", upload, null);
            all.addHeader("x-oss-complete-all", "yes");
            equal(w.client.completeMultipartUpload(all).getETag(), etagOfParts(parts));
            same(get(w, bucket, "k"), join(parts));
            String none = initiate(w, bucket, "none");
            w.client.completeMultipartUpload(new CompleteMultipartUploadRequest(bucket, "none", none, new ArrayList<>()));
            same(get(w, bucket, "none"), new byte[0]);
        });
        add(cases, "parts in sequence", "InitiateMultipartUpload UploadPart CompleteMultipartUpload", w -> {
            String bucket = w.bucket();
            InitiateMultipartUploadRequest request = new InitiateMultipartUploadRequest(bucket, "k");
            request.setSequentialMode(true);
            String upload = w.client.initiateMultipartUpload(request).getUploadId();
            byte[][] parts = {bytes(PART), bytes(9)};
            PartETag one = part(w, bucket, "k", upload, 1, parts[0]);
            refused("PartNotSequential", () -> part(w, bucket, "k", upload, 3, text("x")));
            PartETag two = part(w, bucket, "k", upload, 2, parts[1]);
            w.client.completeMultipartUpload(new CompleteMultipartUploadRequest(bucket, "k", upload, new ArrayList<>(List.of(one, two))));
            same(get(w, bucket, "k"), join(parts));
        });
        add(cases, "uploads that do not come together", "UploadPart CompleteMultipartUpload AbortMultipartUpload", w -> {
            String bucket = w.bucket();
            String upload = initiate(w, bucket, "k");
            PartETag one = part(w, bucket, "k", upload, 1, bytes(PART));
            PartETag two = part(w, bucket, "k", upload, 2, bytes(PART));
            refused("InvalidPart", () -> complete(w, bucket, "k", upload, one, new PartETag(2, "0")));
            refused("InvalidPart", () -> complete(w, bucket, "k", upload, one, two, new PartETag(3, two.getETag())));
            String small = initiate(w, bucket, "small");
            PartETag first = part(w, bucket, "small", small, 1, text("small"));
            PartETag last = part(w, bucket, "small", small, 2, text("x"));
            refused("EntityTooSmall", () -> complete(w, bucket, "small", small, first, last));
            refused("NoSuchUpload", "0042-00000104", () -> part(w, bucket, "k", "0".repeat(32), 1, text("x")));
            w.client.abortMultipartUpload(new AbortMultipartUploadRequest(bucket, "k", upload));
            refused("NoSuchUpload", "0042-00000002", () -> w.client.abortMultipartUpload(new AbortMultipartUploadRequest(bucket, "k", upload)));
            refused("NoSuchUpload", () -> complete(w, bucket, "k", upload, one, two));
        });
        add(cases, "uploads are listed in pages", "ListMultipartUploads", w -> {
            String bucket = w.bucket();
            List<String> keys = List.of("a", "a", "b/1", "c & d");
            Set<String> made = new HashSet<>();
            for (String key : keys) {
                made.add(initiate(w, bucket, key));
            }
            List<String> seen = new ArrayList<>();
            Set<String> ids = new HashSet<>();
            ListMultipartUploadsRequest request = new ListMultipartUploadsRequest(bucket);
            request.setMaxUploads(2);
            MultipartUploadListing page;
            do {
                page = w.client.listMultipartUploads(request);
                for (MultipartUpload upload : page.getMultipartUploads()) {
                    seen.add(upload.getKey());
                    ids.add(upload.getUploadId());
                    check(upload.getInitiated() != null, "no time");
                }
                request.setKeyMarker(page.getNextKeyMarker());
                request.setUploadIdMarker(page.getNextUploadIdMarker());
            } while (page.isTruncated());
            equal(List.of(seen, ids), List.of(keys, made));
        });
        add(cases, "parts out of other objects", "UploadPartCopy", w -> {
            String bucket = w.bucket();
            String source = "dir/from & to \u00fc";
            versioning(w, bucket, BucketVersioningConfiguration.ENABLED);
            byte[] old = bytes(3 * PART);
            byte[] body = bytes(3 * PART);
            String version = put(w, bucket, source, old).getVersionId();
            put(w, bucket, source, body);
            String upload = initiate(w, bucket, "k");
            UploadPartCopyRequest[] requests = {
                new UploadPartCopyRequest(bucket, source, bucket, "k", upload, 1, 0L, (long) PART),
                new UploadPartCopyRequest(bucket, source, bucket, "k", upload, 2, (long) PART, (long) PART),
                new UploadPartCopyRequest(bucket, source, bucket, "k", upload, 3, 0L, 9L * PART),
            };
            requests[1].setSourceVersionId(version);
            byte[][] pieces = {java.util.Arrays.copyOf(body, PART), java.util.Arrays.copyOfRange(old, PART, 2 * PART), body};
            List<PartETag> done = new ArrayList<>();
            for (int n = 0; n < pieces.length; n++) {
                PartETag part = w.client.uploadPartCopy(requests[n]).getPartETag();
                equal(part.getETag(), etagOf(pieces[n]));
                done.add(part);
            }
            UploadPartCopyRequest none = new UploadPartCopyRequest(bucket, "none", bucket, "k", upload, 4, 0L, (long) PART);
            noKey(() -> w.client.uploadPartCopy(none));
            UploadPartCopyRequest condition = new UploadPartCopyRequest(bucket, source, bucket, "k", upload, 4, 0L, (long) PART);
            condition.setMatchingETagConstraints(List.of("0"));
            refused("PreconditionFailed", () -> w.client.uploadPartCopy(condition));
            refused("NoSuchUpload", "0042-00000311", () -> w.client.uploadPartCopy(new UploadPartCopyRequest(bucket, source, bucket, "k", "0".repeat(32), 4, 0L, (long) PART)));
            equal(w.client.completeMultipartUpload(new CompleteMultipartUploadRequest(bucket, "k", upload, done)).getETag(), etagOfParts(pieces));
            same(get(w, bucket, "k"), join(pieces));
        });
    }

    private static void directories(List<Walk.Case> cases) {
        add(cases, "directories are made and renamed", "CreateDirectory Rename GetObject", w -> {
            String bucket = hierarchical(w);
            w.client.createDirectory(bucket, "a");
            w.client.createDirectory(bucket, "a/b");
            put(w, bucket, "a/b/k", text("content"));
            w.client.renameObject(bucket, "a/b/k", "a/moved");
            same(get(w, bucket, "a/moved"), text("content"));
            noKey(() -> w.client.getObject(bucket, "a/b/k"));
            w.client.renameObject(bucket, "a", "c");
            same(get(w, bucket, "c/moved"), text("content"));
            noKey(() -> w.client.renameObject(bucket, "none", "some"));
            put(w, bucket, "d", text("x"));
            refused("FileAlreadyExists", () -> w.client.renameObject(bucket, "c/moved", "d"));
        });
        add(cases, "directories are deleted", "CreateDirectory DeleteDirectory", w -> {
            String bucket = hierarchical(w);
            w.client.createDirectory(bucket, "a");
            for (int n = 0; n < 5; n++) {
                put(w, bucket, "a/" + n, text("x"));
            }
            refused("FileAlreadyExists", () -> w.client.deleteDirectory(bucket, "a"));
            DeleteDirectoryResult gone = w.client.deleteDirectory(bucket, "a", true, null);
            equal(List.of(gone.getDirectoryName(), gone.getDeleteNumber()), List.of("a", 6));
            noKey(() -> w.client.getObject(bucket, "a/0"));
            w.client.createDirectory(bucket, "empty");
            equal(w.client.deleteDirectory(bucket, "empty").getDeleteNumber(), 1);
        });
    }

    private static String hierarchical(Walk.World w) {
        String bucket = w.bucketName("hns");
        w.client.createBucket(new CreateBucketRequest(bucket).withHnsStatus(HnsStatus.Enabled));
        w.remember(bucket);
        return bucket;
    }
}
