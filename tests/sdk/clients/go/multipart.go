package main

import (
	"fmt"
	"strings"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
)

const partSize = 100 << 10

// multipartCases walk multipart.
var multipartCases = []testCase{
	{"an upload in parts", "InitiateMultipartUpload UploadPart ListParts ListMultipartUploads CompleteMultipartUpload", func(w *world) {
		bucket, key := w.bucket(), "big & ü"
		parts := [][]byte{w.bytes(partSize), w.bytes(partSize + 1), w.bytes(7)}
		begun := must(w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: &bucket, Key: &key, ContentType: oss.Ptr("text/x-granary"), Metadata: map[string]string{"a": "1"},
			Tagging: oss.Ptr("t=1"), StorageClass: oss.StorageClassIA, CacheControl: oss.Ptr("no-cache")}))
		equal([]string{text(begun.Bucket), text(begun.Key)}, []string{bucket, key})
		upload := text(begun.UploadId)
		var done []oss.UploadPart
		for n, body := range parts {
			done = append(done, w.part(bucket, key, upload, int32(n+1), body))
		}
		seen := 0
		pages := w.client.NewListPartsPaginator(&oss.ListPartsRequest{Bucket: &bucket, Key: &key, UploadId: &upload, MaxParts: 2})
		for pages.HasNext() {
			page := must(pages.NextPage(ctx))
			equal([]string{text(page.Bucket), text(page.Key), text(page.UploadId), text(page.StorageClass)}, []string{bucket, key, upload, "IA"})
			for _, part := range page.Parts {
				equal([]any{part.PartNumber, text(part.ETag), part.Size, text(part.HashCRC64)}, []any{int32(seen + 1), etagOf(parts[seen]), int64(len(parts[seen])), crcOf(parts[seen])})
				seen++
			}
		}
		equal(seen, 3)
		uploads := must(w.client.ListMultipartUploads(ctx, &oss.ListMultipartUploadsRequest{Bucket: &bucket}))
		equal(len(uploads.Uploads), 1)
		equal([]string{text(uploads.Uploads[0].Key), text(uploads.Uploads[0].UploadId)}, []string{key, upload})
		whole := []byte(string(parts[0]) + string(parts[1]) + string(parts[2]))
		complete := must(w.complete(bucket, key, upload, done...))
		equal([]string{text(complete.ETag), text(complete.HashCRC64), text(complete.Bucket), text(complete.Key)}, []string{etagOfParts(parts...), crcOf(whole), bucket, key})
		check(text(complete.Location) != "", "no location")
		body, got := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		same(body, whole)
		equal([]any{text(got.ETag), text(got.ObjectType), text(got.ContentType), text(got.StorageClass), got.TaggingCount, got.Headers.Get("Cache-Control")},
			[]any{etagOfParts(parts...), "Multipart", "text/x-granary", "IA", int32(1), "no-cache"})
		equal(got.Metadata, map[string]string{"a": "1"})
		_, err := w.client.ListParts(ctx, &oss.ListPartsRequest{Bucket: &bucket, Key: &key, UploadId: &upload})
		refused(err, 404, "NoSuchUpload", "")
	}},
	{"all parts without a list", "CompleteMultipartUpload", func(w *world) {
		bucket, key := w.bucket(), "k"
		upload := w.initiate(bucket, key)
		parts := [][]byte{w.bytes(partSize), w.bytes(3)}
		one := w.part(bucket, key, upload, 2, parts[0])
		w.part(bucket, key, upload, 7, parts[1])
		_, err := w.client.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload, CompleteAll: oss.Ptr("yes"),
			CompleteMultipartUpload: &oss.CompleteMultipartUpload{Parts: []oss.UploadPart{one}}})
		refused(err, 400, "InvalidArgument", "0042-00000216")
		done := must(w.client.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload, CompleteAll: oss.Ptr("yes")}))
		equal(done.ETag, etagOfParts(parts...))
		same(w.read(bucket, key), []byte(string(parts[0])+string(parts[1])))
	}},
	{"parts in sequence", "InitiateMultipartUpload UploadPart CompleteMultipartUpload", func(w *world) {
		bucket, key := w.bucket(), "k"
		begun := must(w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: &bucket, Key: &key, RequestCommon: oss.RequestCommon{Parameters: map[string]string{"sequential": ""}}}))
		upload := text(begun.UploadId)
		parts := [][]byte{w.bytes(partSize), w.bytes(9)}
		first := w.part(bucket, key, upload, 1, parts[0])
		_, err := w.client.UploadPart(ctx, &oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: 3, Body: strings.NewReader("x")})
		refused(err, 400, "PartNotSequential", "")
		second := w.part(bucket, key, upload, 2, parts[1])
		must(w.complete(bucket, key, upload, first, second))
		whole := []byte(string(parts[0]) + string(parts[1]))
		body, got := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		same(body, whole)
		equal(got.HashCRC64, crcOf(whole))
	}},
	{"the MD5 of parts in sequence", "InitiateMultipartUpload UploadPart CompleteMultipartUpload HeadObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		begun := must(w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: &bucket, Key: &key, RequestCommon: oss.RequestCommon{Parameters: map[string]string{"sequential": ""}}}))
		parts := [][]byte{w.bytes(partSize), w.bytes(9)}
		first, second := w.part(bucket, key, text(begun.UploadId), 1, parts[0]), w.part(bucket, key, text(begun.UploadId), 2, parts[1])
		must(w.complete(bucket, key, text(begun.UploadId), first, second))
		equal(must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key})).ContentMD5, md5Of([]byte(string(parts[0])+string(parts[1]))))
	}},
	{"uploads that do not come together", "UploadPart CompleteMultipartUpload AbortMultipartUpload", func(w *world) {
		bucket, key := w.bucket(), "k"
		upload := w.initiate(bucket, key)
		one, two := w.part(bucket, key, upload, 1, w.bytes(partSize)), w.part(bucket, key, upload, 2, w.bytes(partSize))
		_, err := w.complete(bucket, key, upload, one, oss.UploadPart{PartNumber: 2, ETag: oss.Ptr(`"0"`)})
		refused(err, 400, "InvalidPart", "")
		_, err = w.complete(bucket, key, upload, one, oss.UploadPart{PartNumber: 3, ETag: two.ETag})
		refused(err, 400, "InvalidPart", "")
		_, err = w.client.UploadPart(ctx, &oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: 10_001, Body: strings.NewReader("x")})
		refused(err, 400, "InvalidArgument", "")
		_, err = w.client.UploadPart(ctx, &oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: 1, Body: strings.NewReader("x"), ContentMD5: oss.Ptr(md5Of([]byte("y")))})
		refused(err, 400, "InvalidDigest", "")
		unknown := strings.Repeat("0", 32)
		_, err = w.client.UploadPart(ctx, &oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &unknown, PartNumber: 1, Body: strings.NewReader("x")})
		refused(err, 404, "NoSuchUpload", "0042-00000104")
		small := w.initiate(bucket, "small")
		first, last := w.part(bucket, "small", small, 1, []byte("small")), w.part(bucket, "small", small, 2, []byte("x"))
		_, err = w.complete(bucket, "small", small, first, last)
		refused(err, 400, "EntityTooSmall", "")
		w.put(bucket, "there", []byte("x"))
		forbidden := w.initiate(bucket, "there")
		part := w.part(bucket, "there", forbidden, 1, []byte("y"))
		_, err = w.client.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: oss.Ptr("there"), UploadId: &forbidden, ForbidOverwrite: oss.Ptr("true"),
			CompleteMultipartUpload: &oss.CompleteMultipartUpload{Parts: []oss.UploadPart{part}}})
		refused(err, 409, "FileAlreadyExists", "")
		same(w.read(bucket, "there"), []byte("x"))
		equal(must(w.client.AbortMultipartUpload(ctx, &oss.AbortMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload})).StatusCode, 204)
		_, err = w.client.AbortMultipartUpload(ctx, &oss.AbortMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload})
		refused(err, 404, "NoSuchUpload", "0042-00000002")
		_, err = w.complete(bucket, key, upload, one, two)
		refused(err, 404, "NoSuchUpload", "")
		_, err = w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: oss.Ptr(missingBucket), Key: &key})
		noBucket(err)
	}},
	{"uploads are listed in pages", "ListMultipartUploads", func(w *world) {
		bucket := w.bucket()
		keys := []string{"a", "a", "b/1", "b/2", "c & d"}
		made := map[string]bool{}
		for _, key := range keys {
			made[w.initiate(bucket, key)] = true
		}
		var seen []string
		pages := w.client.NewListMultipartUploadsPaginator(&oss.ListMultipartUploadsRequest{Bucket: &bucket, MaxUploads: 2})
		for pages.HasNext() {
			page := must(pages.NextPage(ctx))
			check(len(page.Uploads) <= 2, "%d uploads on a page of 2", len(page.Uploads))
			for _, upload := range page.Uploads {
				seen = append(seen, text(upload.Key))
				check(made[text(upload.UploadId)], "an unknown or repeated upload %q", text(upload.UploadId))
				delete(made, text(upload.UploadId))
				check(upload.Initiated != nil, "no time")
			}
		}
		equal(seen, keys)
		some := must(w.client.ListMultipartUploads(ctx, &oss.ListMultipartUploadsRequest{Bucket: &bucket, Prefix: oss.Ptr("b/")}))
		equal(len(some.Uploads), 2)
		folders := must(w.client.ListMultipartUploads(ctx, &oss.ListMultipartUploadsRequest{Bucket: &bucket, Delimiter: oss.Ptr("/")}))
		equal(len(folders.Uploads), 3)
	}},
	{"parts out of other objects", "UploadPartCopy", func(w *world) {
		bucket, other, key, source := w.bucket(), w.bucket(), "k", "dir/from & to ü"
		w.versioning(other, oss.VersionEnabled)
		old, body := w.bytes(3*partSize), w.bytes(3*partSize)
		version := w.put(other, source, old).VersionId
		etag := text(w.put(other, source, body).ETag)
		upload := w.initiate(bucket, key)
		part := func(number int32, change func(*oss.UploadPartCopyRequest)) (*oss.UploadPartCopyResult, error) {
			request := &oss.UploadPartCopyRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: number, SourceBucket: &other, SourceKey: &source}
			change(request)
			return w.client.UploadPartCopy(ctx, request)
		}
		pieces := [][]byte{body[:partSize], old[partSize : 2*partSize], body, body[2*partSize:]}
		var done []oss.UploadPart
		for n, change := range []func(*oss.UploadPartCopyRequest){
			func(r *oss.UploadPartCopyRequest) { r.Range = oss.Ptr(fmt.Sprintf("bytes=0-%d", partSize-1)) },
			func(r *oss.UploadPartCopyRequest) {
				r.Range, r.SourceVersionId = oss.Ptr(fmt.Sprintf("bytes=%d-%d", partSize, 2*partSize-1)), version
			},
			// A range that is too long is no range.
			func(r *oss.UploadPartCopyRequest) { r.Range = oss.Ptr(fmt.Sprintf("bytes=0-%d", 9*partSize)) },
			func(r *oss.UploadPartCopyRequest) {
				r.Range, r.IfMatch = oss.Ptr(fmt.Sprintf("bytes=%d-", 2*partSize)), &etag
			},
		} {
			copied := must(part(int32(n+1), change))
			equal(copied.ETag, etagOf(pieces[n]))
			check(copied.LastModified != nil, "no time")
			done = append(done, oss.UploadPart{PartNumber: int32(n + 1), ETag: copied.ETag})
		}
		_, err := part(5, func(r *oss.UploadPartCopyRequest) { r.IfMatch = oss.Ptr(`"0"`) })
		refused(err, 412, "PreconditionFailed", "")
		_, err = part(5, func(r *oss.UploadPartCopyRequest) { r.SourceKey = oss.Ptr("none") })
		noKey(err)
		_, err = part(5, func(r *oss.UploadPartCopyRequest) { r.SourceBucket = oss.Ptr(missingBucket) })
		noBucket(err)
		_, err = part(5, func(r *oss.UploadPartCopyRequest) { r.UploadId = oss.Ptr(strings.Repeat("0", 32)) })
		refused(err, 404, "NoSuchUpload", "0042-00000311")
		equal(must(w.complete(bucket, key, upload, done...)).ETag, etagOfParts(pieces...))
		same(w.read(bucket, key), []byte(string(pieces[0])+string(pieces[1])+string(pieces[2])+string(pieces[3])))
	}},
	{"a large copy by itself", "UploadPartCopy CopyObject HeadObject GetObjectTagging", func(w *world) {
		bucket, other := w.bucket(), w.bucket()
		body := w.bytes(5*partSize + 1)
		must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("from"), Body: strings.NewReader(string(body)), Metadata: map[string]string{"a": "1"}, Tagging: oss.Ptr("t=1")}))
		copied := must(w.client.NewCopier().Copy(ctx, &oss.CopyObjectRequest{Bucket: &other, Key: oss.Ptr("to"), SourceBucket: &bucket, SourceKey: oss.Ptr("from")},
			func(o *oss.CopierOptions) {
				o.PartSize, o.MultipartCopyThreshold, o.DisableShallowCopy = 2*partSize, 0, true
			}))
		equal(copied.HashCRC64, crcOf(body))
		got, result := w.get(&oss.GetObjectRequest{Bucket: &other, Key: oss.Ptr("to")})
		same(got, body)
		equal(result.Metadata, map[string]string{"a": "1"})
		equal(result.TaggingCount, int32(1))
	}},
}

func (w *world) initiate(bucket, key string) string {
	return text(must(w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: &bucket, Key: &key})).UploadId)
}

func (w *world) part(bucket, key, upload string, number int32, body []byte) oss.UploadPart {
	part := must(w.client.UploadPart(ctx, &oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: number, Body: strings.NewReader(string(body))}))
	equal([]string{text(part.ETag), text(part.HashCRC64), text(part.ContentMD5)}, []string{etagOf(body), crcOf(body), md5Of(body)})
	return oss.UploadPart{PartNumber: number, ETag: part.ETag}
}

func (w *world) complete(bucket, key, upload string, parts ...oss.UploadPart) (*oss.CompleteMultipartUploadResult, error) {
	return w.client.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload, CompleteMultipartUpload: &oss.CompleteMultipartUpload{Parts: parts}})
}
