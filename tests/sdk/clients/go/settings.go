package main

import (
	"strings"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
)

// settingCases walk acl, tags, cors, versioning, object-acl, object-tagging and symlink.
var settingCases = []testCase{
	{"the ACL of a bucket", "PutBucketAcl GetBucketAcl PutObject GetObject", func(w *world) {
		bucket := w.bucket()
		w.put(bucket, "k", []byte("open?"))
		address := w.address(bucket, "k")
		for _, acl := range []oss.BucketACLType{oss.BucketACLPublicRead, oss.BucketACLPublicReadWrite, oss.BucketACLPrivate} {
			must(w.client.PutBucketAcl(ctx, &oss.PutBucketAclRequest{Bucket: &bucket, Acl: acl}))
			got := must(w.client.GetBucketAcl(ctx, &oss.GetBucketAclRequest{Bucket: &bucket}))
			equal(got.ACL, string(acl))
			check(text(got.Owner.ID) != "", "no owner")
			read, _, _ := w.plain("GET", address, "", nil)
			written, _, _ := w.plain("PUT", address, "open?", nil)
			equal([]bool{read == 200, written == 200}, []bool{acl != oss.BucketACLPrivate, acl == oss.BucketACLPublicReadWrite})
		}
		_, err := w.client.PutBucketAcl(ctx, &oss.PutBucketAclRequest{Bucket: &bucket, Acl: "everybody"})
		refused(err, 400, "InvalidArgument", "")
		_, err = w.client.GetBucketAcl(ctx, &oss.GetBucketAclRequest{Bucket: oss.Ptr(missingBucket)})
		noBucket(err)
	}},
	{"the tags of a bucket", "PutBucketTags GetBucketTags DeleteBucketTags", func(w *world) {
		bucket := w.bucket()
		read := func() []string {
			return shown(must(w.client.GetBucketTags(ctx, &oss.GetBucketTagsRequest{Bucket: &bucket})).Tagging.TagSet.Tags)
		}
		equal(read(), []string{})
		w.putTags(bucket, "team", "storage", "k+1", "v:/=1", "third", "")
		equal(read(), []string{"k+1=v:/=1", "team=storage", "third="})
		must(w.client.DeleteBucketTags(ctx, &oss.DeleteBucketTagsRequest{Bucket: &bucket, Tagging: oss.Ptr("team,third")}))
		equal(read(), []string{"k+1=v:/=1"})
		must(w.client.DeleteBucketTags(ctx, &oss.DeleteBucketTagsRequest{Bucket: &bucket}))
		equal(read(), []string{})
		_, err := w.client.PutBucketTags(ctx, &oss.PutBucketTagsRequest{Bucket: &bucket, Tagging: &oss.Tagging{TagSet: &oss.TagSet{Tags: tags(strings.Repeat("k", 65), "v")}}})
		refused(err, 400, "InvalidArgument", "")
		_, err = w.client.GetBucketTags(ctx, &oss.GetBucketTagsRequest{Bucket: oss.Ptr(missingBucket)})
		noBucket(err)
	}},
	{"the CORS rules of a bucket", "PutBucketCors GetBucketCors DeleteBucketCors OptionObject", func(w *world) {
		bucket := w.bucket()
		_, err := w.client.GetBucketCors(ctx, &oss.GetBucketCorsRequest{Bucket: &bucket})
		refused(err, 404, "NoSuchCORSConfiguration", "")
		rules := []oss.CORSRule{
			{AllowedOrigins: []string{"http://one.example", "http://*.two.example"}, AllowedMethods: []string{"PUT", "GET"}, AllowedHeaders: []string{"x-oss-*"}, ExposeHeaders: []string{"ETag", "x-oss-test"}, MaxAgeSeconds: oss.Ptr(int64(60))},
			{AllowedOrigins: []string{"*"}, AllowedMethods: []string{"HEAD"}},
		}
		must(w.client.PutBucketCors(ctx, &oss.PutBucketCorsRequest{Bucket: &bucket, CORSConfiguration: &oss.CORSConfiguration{CORSRules: rules, ResponseVary: oss.Ptr(true)}}))
		got := must(w.client.GetBucketCors(ctx, &oss.GetBucketCorsRequest{Bucket: &bucket})).CORSConfiguration
		equal(got.CORSRules, rules)
		equal(got.ResponseVary, true)
		ask := func(origin, method, headers string) (*oss.OptionObjectResult, error) {
			return w.client.OptionObject(ctx, &oss.OptionObjectRequest{Bucket: &bucket, Key: oss.Ptr("k"), Origin: &origin, AccessControlRequestMethod: &method, AccessControlRequestHeaders: &headers})
		}
		allowed := must(ask("http://a.two.example", "PUT", "x-oss-meta-a"))
		equal(allowed.AccessControlAllowOrigin, "http://a.two.example")
		check(strings.Contains(text(allowed.AccessControlAllowMethods), "PUT"), "methods %q", text(allowed.AccessControlAllowMethods))
		check(strings.Contains(strings.ToLower(text(allowed.AccessControlAllowHeaders)), "x-oss-meta-a"), "headers %q", text(allowed.AccessControlAllowHeaders))
		check(strings.Contains(text(allowed.AccessControlExposeHeaders), "x-oss-test"), "exposed %q", text(allowed.AccessControlExposeHeaders))
		equal(allowed.AccessControlMaxAge, int64(60))
		_, err = ask("http://three.example", "PUT", "")
		refused(err, 403, "AccessForbidden", "")
		_, err = ask("http://one.example", "PUT", "content-type")
		refused(err, 403, "AccessForbidden", "")
		_, err = w.client.PutBucketCors(ctx, &oss.PutBucketCorsRequest{Bucket: &bucket, CORSConfiguration: &oss.CORSConfiguration{CORSRules: []oss.CORSRule{{AllowedOrigins: []string{"*"}, AllowedMethods: []string{"PATCH"}}}}})
		check(err != nil && serviceError(err) != nil && serviceError(err).StatusCode == 400, "a rule for PATCH is accepted: %v", err)
		must(w.client.DeleteBucketCors(ctx, &oss.DeleteBucketCorsRequest{Bucket: &bucket}))
		_, err = ask("http://one.example", "GET", "")
		refused(err, 403, "AccessForbidden", "")
	}},
	{"versions", "PutBucketVersioning GetBucketVersioning ListObjectVersions GetObject HeadObject DeleteObject DeleteMultipleObjects CopyObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		check(must(w.client.GetBucketVersioning(ctx, &oss.GetBucketVersioningRequest{Bucket: &bucket})).VersionStatus == nil, "a new bucket has a state of versioning")
		w.put(bucket, key, []byte("null"))
		w.versioning(bucket, oss.VersionEnabled)
		one, two := text(w.put(bucket, key, []byte("one")).VersionId), text(w.put(bucket, key, []byte("two")).VersionId)
		check(one != "" && one != two, "version ids %q and %q", one, two)
		for id, body := range map[string]string{"null": "null", one: "one", two: "two"} {
			got, result := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key, VersionId: oss.Ptr(id)})
			same(got, []byte(body))
			equal(result.VersionId, id)
			head := must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key, VersionId: oss.Ptr(id)}))
			equal(head.ContentLength, int64(len(body)))
		}
		gone := must(w.client.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: &bucket, Key: &key}))
		check(gone.DeleteMarker && text(gone.VersionId) != "", "no marker: %+v", gone)
		_, err := w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		noKey(err)
		equal(serviceError(err).Headers.Get("x-oss-delete-marker"), "true")
		_, err = w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key, VersionId: gone.VersionId})
		refused(err, 405, "MethodNotAllowed", "")
		var order []string
		pages := w.client.NewListObjectVersionsPaginator(&oss.ListObjectVersionsRequest{Bucket: &bucket, MaxKeys: 3, IsMix: true})
		for pages.HasNext() {
			for _, version := range must(pages.NextPage(ctx)).ObjectVersionsDeleteMarkers {
				kind := "version"
				if version.IsDeleteMarker() {
					kind = "marker"
				}
				check(version.IsLatest == (len(order) == 0), "version %d is latest: %v", len(order), version.IsLatest)
				order = append(order, kind+" "+text(version.VersionId))
			}
		}
		equal(order, []string{"marker " + text(gone.VersionId), "version " + two, "version " + one, "version null"})
		apart := must(w.client.ListObjectVersions(ctx, &oss.ListObjectVersionsRequest{Bucket: &bucket, Prefix: &key}))
		equal([]int{len(apart.ObjectVersions), len(apart.ObjectDeleteMarkers)}, []int{3, 1})
		equal(apart.ObjectVersions[0].ETag, etagOf([]byte("two")))
		copied := must(w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &bucket, Key: oss.Ptr("copy"), SourceKey: &key, SourceVersionId: &one}))
		equal(copied.SourceVersionId, one)
		same(w.read(bucket, "copy"), []byte("one"))
		_, err = w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &bucket, Key: oss.Ptr("copy"), SourceKey: &key})
		noKey(err)
		back := must(w.client.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: &bucket, Key: &key, VersionId: gone.VersionId}))
		check(back.DeleteMarker, "the marker that went is not called one")
		same(w.read(bucket, key), []byte("two"))
		some := must(w.client.DeleteMultipleObjects(ctx, &oss.DeleteMultipleObjectsRequest{Bucket: &bucket, Objects: []oss.DeleteObject{{Key: &key, VersionId: &two}, {Key: &key}}}))
		equal(len(some.DeletedObjects), 2)
		check(some.DeletedObjects[1].DeleteMarker && text(some.DeletedObjects[1].DeleteMarkerVersionId) != "", "no marker: %+v", some.DeletedObjects[1])
		_, err = w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key, VersionId: &two})
		refused(err, 404, "NoSuchVersion", "")
		w.versioning(bucket, oss.VersionSuspended)
		equal(w.put(bucket, key, []byte("over")).VersionId, "null")
		_, err = w.client.PutBucketVersioning(ctx, &oss.PutBucketVersioningRequest{Bucket: &bucket, VersioningConfiguration: &oss.VersioningConfiguration{Status: "Perhaps"}})
		check(err != nil && serviceError(err) != nil && serviceError(err).StatusCode == 400, "any state of versioning is accepted: %v", err)
		_, err = w.client.ListObjectVersions(ctx, &oss.ListObjectVersionsRequest{Bucket: &bucket, VersionIdMarker: &one})
		refused(err, 400, "InvalidArgument", "")
	}},
	{"the ACL of an object", "PutObjectAcl GetObjectAcl", func(w *world) {
		bucket, key := w.bucket(), "dir/k"
		w.put(bucket, key, []byte("open?"))
		read := func() string {
			got := must(w.client.GetObjectAcl(ctx, &oss.GetObjectAclRequest{Bucket: &bucket, Key: &key}))
			check(text(got.Owner.ID) != "", "no owner")
			return text(got.ACL)
		}
		equal(read(), "default")
		for _, acl := range []oss.ObjectACLType{oss.ObjectACLPublicRead, oss.ObjectACLPublicReadWrite, oss.ObjectACLPrivate, oss.ObjectACLDefault} {
			must(w.client.PutObjectAcl(ctx, &oss.PutObjectAclRequest{Bucket: &bucket, Key: &key, Acl: acl}))
			equal(read(), string(acl))
			status, _, _ := w.plain("GET", w.address(bucket, key), "", nil)
			equal(status == 200, strings.HasPrefix(string(acl), "public"))
		}
		w.versioning(bucket, oss.VersionEnabled)
		w.put(bucket, key, []byte("newer"))
		must(w.client.PutObjectAcl(ctx, &oss.PutObjectAclRequest{Bucket: &bucket, Key: &key, Acl: oss.ObjectACLPublicRead, VersionId: oss.Ptr("null")}))
		equal(read(), "default")
		equal(must(w.client.GetObjectAcl(ctx, &oss.GetObjectAclRequest{Bucket: &bucket, Key: &key, VersionId: oss.Ptr("null")})).ACL, "public-read")
		must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("made"), Acl: oss.ObjectACLPublicRead, Body: strings.NewReader("x")}))
		equal(must(w.client.GetObjectAcl(ctx, &oss.GetObjectAclRequest{Bucket: &bucket, Key: oss.Ptr("made")})).ACL, "public-read")
		_, err := w.client.GetObjectAcl(ctx, &oss.GetObjectAclRequest{Bucket: &bucket, Key: oss.Ptr("none")})
		noKey(err)
		_, err = w.client.PutObjectAcl(ctx, &oss.PutObjectAclRequest{Bucket: &bucket, Key: &key, Acl: "everybody"})
		refused(err, 400, "InvalidArgument", "")
	}},
	{"the tags of an object", "PutObjectTagging GetObjectTagging DeleteObjectTagging PutObject CopyObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		w.versioning(bucket, oss.VersionEnabled)
		old := w.put(bucket, key, []byte("old")).VersionId
		w.put(bucket, key, []byte("new"))
		set := func(version *string, pairs ...string) error {
			_, err := w.client.PutObjectTagging(ctx, &oss.PutObjectTaggingRequest{Bucket: &bucket, Key: &key, VersionId: version, Tagging: &oss.Tagging{TagSet: &oss.TagSet{Tags: tags(pairs...)}}})
			return err
		}
		read := func(key string, version *string) []string {
			return shown(must(w.client.GetObjectTagging(ctx, &oss.GetObjectTaggingRequest{Bucket: &bucket, Key: &key, VersionId: version})).Tags)
		}
		equal(read(key, nil), []string{})
		check(set(nil, "a b", "1", "c:d", "e/f=g") == nil, "tags are refused")
		check(set(old, "version", "old") == nil, "tags of a version are refused")
		equal(read(key, nil), []string{"a b=1", "c:d=e/f=g"})
		equal(read(key, old), []string{"version=old"})
		equal(must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key})).TaggingCount, int32(2))
		must(w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &bucket, Key: oss.Ptr("copy"), SourceKey: &key}))
		equal(read("copy", nil), []string{"a b=1", "c:d=e/f=g"})
		must(w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &bucket, Key: oss.Ptr("copy"), SourceKey: &key, TaggingDirective: oss.Ptr("Replace"), Tagging: oss.Ptr("other=1")}))
		equal(read("copy", nil), []string{"other=1"})
		must(w.client.DeleteObjectTagging(ctx, &oss.DeleteObjectTaggingRequest{Bucket: &bucket, Key: &key}))
		equal(read(key, nil), []string{})
		equal(read(key, old), []string{"version=old"})
		must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("made"), Tagging: oss.Ptr("k1=v1&k%202=v%2F2"), Body: strings.NewReader("x")}))
		equal(read("made", nil), []string{"k 2=v/2", "k1=v1"})
		var eleven []string
		for _, letter := range "abcdefghijk" {
			eleven = append(eleven, string(letter), "v")
		}
		refused(set(nil, eleven...), 400, "InvalidArgument", "")
		refused(set(nil, strings.Repeat("k", 129), "v"), 400, "InvalidArgument", "")
		_, err := w.client.GetObjectTagging(ctx, &oss.GetObjectTaggingRequest{Bucket: &bucket, Key: oss.Ptr("none")})
		noKey(err)
	}},
	{"symbolic links", "PutSymlink GetSymlink GetObject HeadObject", func(w *world) {
		bucket, target := w.bucket(), "dir/target ü"
		w.put(bucket, target, []byte("content"))
		must(w.client.PutSymlink(ctx, &oss.PutSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("link"), Target: oss.Ptr("dir/target%20%C3%BC"), Metadata: map[string]string{"a": "1"}, Acl: oss.ObjectACLPublicRead}))
		link := must(w.client.GetSymlink(ctx, &oss.GetSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("link")}))
		equal(link.Target, "dir/target%20%C3%BC")
		equal(link.Metadata, map[string]string{"a": "1"})
		body, got := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: oss.Ptr("link")})
		same(body, []byte("content"))
		equal(got.ObjectType, "Symlink")
		equal(got.HashCRC64, crcOf(body))
		must(w.client.PutObjectAcl(ctx, &oss.PutObjectAclRequest{Bucket: &bucket, Key: &target, Acl: oss.ObjectACLPublicRead}))
		status, _, open := w.plain("GET", w.address(bucket, "link"), "", nil)
		equal([]any{status, open}, []any{200, "content"})
		read := func(key string) error {
			_, err := w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key})
			return err
		}
		must(w.client.PutSymlink(ctx, &oss.PutSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("dangling"), Target: oss.Ptr("nothing")}))
		refused(read("dangling"), 404, "SymlinkTargetNotExist", "")
		must(w.client.PutSymlink(ctx, &oss.PutSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("twice"), Target: oss.Ptr("link")}))
		refused(read("twice"), 400, "InvalidTargetType", "")
		_, err := w.client.PutSymlink(ctx, &oss.PutSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("link"), Target: oss.Ptr("nothing"), ForbidOverwrite: oss.Ptr("true")})
		refused(err, 409, "FileAlreadyExists", "")
		_, err = w.client.GetSymlink(ctx, &oss.GetSymlinkRequest{Bucket: &bucket, Key: oss.Ptr("none")})
		noKey(err)
		_, err = w.client.GetSymlink(ctx, &oss.GetSymlinkRequest{Bucket: &bucket, Key: &target})
		refused(err, 400, "NotSymlink", "")
	}},
}

func (w *world) versioning(bucket string, status oss.VersioningStatusType) {
	must(w.client.PutBucketVersioning(ctx, &oss.PutBucketVersioningRequest{Bucket: &bucket, VersioningConfiguration: &oss.VersioningConfiguration{Status: status}}))
	equal(must(w.client.GetBucketVersioning(ctx, &oss.GetBucketVersioningRequest{Bucket: &bucket})).VersionStatus, string(status))
}
