package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
)

// objectCases walk object-basic.
var objectCases = []testCase{
	sized(0), sized(1), sized(16 << 10), sized(65537), sized(300_000), sized(4<<20 + 1),
	{"headers and user metadata are kept", "PutObject HeadObject GetObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		put := oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("x"), CacheControl: oss.Ptr("no-cache"), ContentDisposition: oss.Ptr(`attachment; filename="x"`),
			ContentEncoding: oss.Ptr("identity"), ContentType: oss.Ptr("text/x-granary"), Expires: oss.Ptr("Fri, 28 Feb 2031 05:38:42 GMT"), Metadata: map[string]string{"people": "8", "with-dash": "a b"},
			StorageClass: oss.StorageClassIA}
		must(w.client.PutObject(ctx, &put))
		head := must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key}))
		equal(head.Metadata, map[string]string{"people": "8", "with-dash": "a b"})
		equal([]string{text(head.CacheControl), text(head.ContentDisposition), text(head.ContentEncoding), text(head.ContentType), text(head.Expires), text(head.StorageClass)},
			[]string{"no-cache", `attachment; filename="x"`, "identity", "text/x-granary", "Fri, 28 Feb 2031 05:38:42 GMT", "IA"})
		_, got := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key, ResponseContentType: oss.Ptr("text/plain"), ResponseCacheControl: oss.Ptr("max-age=1"), ResponseContentDisposition: oss.Ptr("inline"),
			ResponseContentEncoding: oss.Ptr("x"), ResponseContentLanguage: oss.Ptr("fr"), ResponseExpires: oss.Ptr("0")})
		for name, value := range map[string]string{"Content-Type": "text/plain", "Cache-Control": "max-age=1", "Content-Disposition": "inline", "Content-Encoding": "x", "Content-Language": "fr", "Expires": "0"} {
			equal(got.Headers.Get(name), value)
		}
		_, err := w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("x"), Metadata: map[string]string{"large": strings.Repeat("v", 8<<10)}})
		check(err != nil && serviceError(err) != nil && serviceError(err).StatusCode == 400, "8 KiB of user metadata are accepted: %v", err)
	}},
	{"ranges", "GetObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		body := w.bytes(200_000)
		w.put(bucket, key, body)
		read := func(value, behaviour string) ([]byte, *oss.GetObjectResult) {
			request := &oss.GetObjectRequest{Bucket: &bucket, Key: &key, Range: &value}
			if behaviour != "" {
				request.RangeBehavior = &behaviour
			}
			return w.get(request)
		}
		for value, ends := range map[string][2]int{"bytes=0-0": {0, 1}, "bytes=70000-140000": {70_000, 140_001}, "bytes=199999-": {199_999, 200_000}, "bytes=-10": {199_990, 200_000}} {
			got, result := read(value, "")
			same(got, body[ends[0]:ends[1]])
			equal(result.StatusCode, 206)
			equal(result.ContentRange, fmt.Sprintf("bytes %d-%d/200000", ends[0], ends[1]-1))
		}
		for _, value := range []string{"bytes=9-5", "bytes=0-200000", "bytes=200000-", "lines=1-2"} {
			got, result := read(value, "")
			same(got, body)
			equal(result.StatusCode, 200)
			check(result.ContentRange == nil, "%s has a Content-Range", value)
		}
		got, _ := read("bytes=199990-300000", "standard")
		same(got, body[199_990:])
		_, err := w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key, Range: oss.Ptr("bytes=200000-"), RangeBehavior: oss.Ptr("standard")})
		refused(err, 416, "InvalidRange", "")
	}},
	{"conditions", "GetObject HeadObject CopyObject PutObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		etag := text(w.put(bucket, key, []byte("x")).ETag)
		past, future := "Fri, 01 Jan 2021 00:00:00 GMT", time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
		get := func(change func(*oss.GetObjectRequest)) error {
			request := &oss.GetObjectRequest{Bucket: &bucket, Key: &key}
			change(request)
			result, err := w.client.GetObject(ctx, request)
			if err == nil {
				result.Body.Close()
			}
			return err
		}
		must(0, get(func(r *oss.GetObjectRequest) { r.IfMatch = &etag }))
		must(0, get(func(r *oss.GetObjectRequest) { r.IfModifiedSince = &past }))
		must(0, get(func(r *oss.GetObjectRequest) { r.IfUnmodifiedSince = &future }))
		refused(get(func(r *oss.GetObjectRequest) { r.IfMatch = oss.Ptr(`"0"`) }), 412, "PreconditionFailed", "")
		refused(get(func(r *oss.GetObjectRequest) { r.IfUnmodifiedSince = &past }), 412, "PreconditionFailed", "")
		for _, err := range []error{get(func(r *oss.GetObjectRequest) { r.IfNoneMatch = &etag }), get(func(r *oss.GetObjectRequest) { r.IfModifiedSince = &future })} {
			check(err != nil && serviceError(err) != nil && serviceError(err).StatusCode == 304, "expected 304: %v", err)
		}
		copied := func(change func(*oss.CopyObjectRequest)) error {
			request := &oss.CopyObjectRequest{Bucket: &bucket, Key: oss.Ptr("copy"), SourceKey: &key}
			change(request)
			_, err := w.client.CopyObject(ctx, request)
			return err
		}
		must(0, copied(func(r *oss.CopyObjectRequest) { r.IfMatch = &etag }))
		refused(copied(func(r *oss.CopyObjectRequest) { r.IfMatch = oss.Ptr(`"0"`) }), 412, "PreconditionFailed", "")
		refused(copied(func(r *oss.CopyObjectRequest) { r.IfUnmodifiedSince = &past }), 412, "PreconditionFailed", "")
		refused(copied(func(r *oss.CopyObjectRequest) { r.ForbidOverwrite = oss.Ptr("true") }), 409, "FileAlreadyExists", "")
		_, err := w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("y"), ForbidOverwrite: oss.Ptr("true")})
		refused(err, 409, "FileAlreadyExists", "")
		same(w.read(bucket, key), []byte("x"))
	}},
	{"what is not accepted", "PutObject GetObject HeadObject GetObjectMeta DeleteObject", func(w *world) {
		bucket, key := w.bucket(), "k"
		_, err := w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("x"), ContentMD5: oss.Ptr(md5Of([]byte("y")))})
		refused(err, 400, "InvalidDigest", "")
		_, err = w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		noKey(err)
		_, err = w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key})
		noKey(err)
		_, err = w.client.GetObjectMeta(ctx, &oss.GetObjectMetaRequest{Bucket: &bucket, Key: &key})
		noKey(err)
		check(!must(w.client.IsObjectExist(ctx, bucket, key)), "an object is said to exist")
		equal(must(w.client.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: &bucket, Key: &key})).StatusCode, 204)
		for _, long := range []string{strings.Repeat("k", 1024), `\k`} {
			_, err = w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr(long), Body: strings.NewReader("x")})
			refused(err, 400, "InvalidObjectName", "")
		}
		_, err = w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: oss.Ptr(missingBucket), Key: &key, Body: strings.NewReader("x")})
		noBucket(err)
		_, err = w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("x"), StorageClass: "Frozen"})
		refused(err, 400, "InvalidArgument", "")
		_, err = w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader("x"), TrafficLimit: 1})
		refused(err, 400, "InvalidArgument", "")
	}},
	{"copies", "CopyObject", func(w *world) {
		one, two, key := w.bucket(), w.bucket(), "dir/source & more ü+"
		body := w.bytes(150_000)
		must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &one, Key: &key, Body: strings.NewReader(string(body)), Metadata: map[string]string{"a": "1"}, ContentType: oss.Ptr("text/x-granary")}))
		copied := must(w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &two, Key: oss.Ptr("copy"), SourceBucket: &one, SourceKey: &key}))
		equal(copied.ETag, etagOf(body))
		check(time.Since(oss.ToTime(copied.LastModified)).Abs() < 10*time.Minute, "modified %v", copied.LastModified)
		head := must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &two, Key: oss.Ptr("copy")}))
		equal(head.Metadata, map[string]string{"a": "1"})
		equal(head.ContentType, "text/x-granary")
		equal(head.HashCRC64, crcOf(body))
		same(w.read(two, "copy"), body)
		must(w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &two, Key: oss.Ptr("copy"), SourceKey: oss.Ptr("copy"), MetadataDirective: oss.Ptr("REPLACE"), Metadata: map[string]string{"b": "2"}, StorageClass: oss.StorageClassIA}))
		head = must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &two, Key: oss.Ptr("copy")}))
		equal(head.Metadata, map[string]string{"b": "2"})
		equal(head.StorageClass, "IA")
		same(w.read(two, "copy"), body)
		_, err := w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &two, Key: oss.Ptr("x"), SourceKey: oss.Ptr("none")})
		noKey(err)
		_, err = w.client.CopyObject(ctx, &oss.CopyObjectRequest{Bucket: &two, Key: oss.Ptr("x"), SourceBucket: oss.Ptr(missingBucket), SourceKey: oss.Ptr("none")})
		noBucket(err)
	}},
	{"many deletions at once", "DeleteMultipleObjects", func(w *world) {
		bucket := w.bucket()
		keys := []string{"a", "b & c", "d\x02e", "f/g", "日本"}
		var objects []oss.DeleteObject
		for n := range keys {
			w.put(bucket, keys[n], []byte("x"))
			objects = append(objects, oss.DeleteObject{Key: &keys[n]})
		}
		objects = append(objects, oss.DeleteObject{Key: oss.Ptr("never")})
		done := must(w.client.DeleteMultipleObjects(ctx, &oss.DeleteMultipleObjectsRequest{Bucket: &bucket, Objects: objects}))
		var deleted []string
		for _, one := range done.DeletedObjects {
			deleted = append(deleted, text(one.Key))
		}
		sort.Strings(deleted)
		want := append([]string{"never"}, keys...)
		sort.Strings(want)
		equal(deleted, want)
		equal(len(must(w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: &bucket})).Contents), 0)
		quiet := must(w.client.DeleteMultipleObjects(ctx, &oss.DeleteMultipleObjectsRequest{Bucket: &bucket, Objects: objects, Quiet: true}))
		equal(len(quiet.DeletedObjects), 0)
		var many []oss.DeleteObject
		for n := 0; n < 1001; n++ {
			many = append(many, oss.DeleteObject{Key: oss.Ptr(fmt.Sprint(n))})
		}
		_, err := w.client.DeleteMultipleObjects(ctx, &oss.DeleteMultipleObjectsRequest{Bucket: &bucket, Objects: many})
		refused(err, 400, "MalformedXML", "")
	}},
	{"keys as people choose them", "PutObject GetObject ListObjectsV2", func(w *world) {
		bucket := w.bucket()
		keys := []string{"空 格/日本語.txt", "a+b&c=d?e#f", "100%/%41", `quote'"<>`, "tail/", "two//slashes", "tab\tnew\nline", "~!@$^*()_-=[]{}|;:,", "?begin"}
		for _, key := range keys {
			w.put(bucket, key, []byte(key))
			same(w.read(bucket, key), []byte(key))
		}
		var listed []string
		for _, object := range must(w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: &bucket})).Contents {
			listed = append(listed, text(object.Key))
		}
		sort.Strings(keys)
		equal(listed, keys)
	}},
	{"addresses that are signed", "GetObject PutObject HeadObject InitiateMultipartUpload UploadPart CompleteMultipartUpload AbortMultipartUpload", func(w *world) {
		bucket, key := w.bucket(), "dir/a b+ü"
		w.put(bucket, key, []byte("signed"))
		sign := func(request any, options ...func(*oss.PresignOptions)) *oss.PresignResult {
			return must(w.client.Presign(ctx, request, options...))
		}
		send := func(signed *oss.PresignResult, body string) (int, http.Header, string) {
			return w.plain(signed.Method, signed.URL, body, signed.SignedHeaders)
		}
		status, _, got := send(sign(&oss.GetObjectRequest{Bucket: &bucket, Key: &key}), "")
		equal([]any{status, got}, []any{200, "signed"})
		status, headers, _ := send(sign(&oss.PutObjectRequest{Bucket: &bucket, Key: &key, ContentType: oss.Ptr("text/x"), Metadata: map[string]string{"a": "1"}}), "put")
		equal([]any{status, headers.Get("ETag")}, []any{200, etagOf([]byte("put"))})
		equal(must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key})).Metadata, map[string]string{"a": "1"})
		status, headers, _ = send(sign(&oss.HeadObjectRequest{Bucket: &bucket, Key: &key}, func(o *oss.PresignOptions) { o.Expires = time.Minute }), "")
		equal([]any{status, headers.Get("Content-Length")}, []any{200, "3"})
		status, _, got = send(sign(&oss.InitiateMultipartUploadRequest{Bucket: &bucket, Key: &key}), "")
		equal(status, 200)
		upload := must(url.QueryUnescape(strings.SplitN(strings.SplitN(got, "<UploadId>", 2)[1], "<", 2)[0]))
		status, headers, _ = send(sign(&oss.UploadPartRequest{Bucket: &bucket, Key: &key, UploadId: &upload, PartNumber: 1}), "part")
		equal(status, 200)
		status, _, _ = send(sign(&oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload}),
			"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"+headers.Get("ETag")+"</ETag></Part></CompleteMultipartUpload>")
		equal(status, 200)
		same(w.read(bucket, key), []byte("part"))
		status, _, got = send(sign(&oss.AbortMultipartUploadRequest{Bucket: &bucket, Key: &key, UploadId: &upload}), "")
		equal(status, 404)
		check(strings.Contains(got, "<Code>NoSuchUpload</Code>"), "not NoSuchUpload: %s", got)
		spoilt := sign(&oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		status, _, got = w.plain("DELETE", spoilt.URL, "", nil)
		equal(status, 403)
		check(strings.Contains(got, "<Code>SignatureDoesNotMatch</Code>"), "not SignatureDoesNotMatch: %s", got)
		other := sign(&oss.PutObjectRequest{Bucket: &bucket, Key: &key, Metadata: map[string]string{"a": "1"}})
		status, _, _ = w.plain("PUT", other.URL, "x", map[string]string{"x-oss-meta-a": "2"})
		equal(status, 403)
	}},
	{"files and streams", "PutObject GetObject UploadPart HeadObject CompleteMultipartUpload", func(w *world) {
		bucket := w.bucket()
		place := must(os.MkdirTemp("", "granary-go-"))
		defer os.RemoveAll(place)
		body := w.bytes(700_001)
		from, to := filepath.Join(place, "in.json"), filepath.Join(place, "out")
		must(0, os.WriteFile(from, body, 0o600))
		must(w.client.PutObjectFromFile(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("file.json")}, from))
		must(w.client.GetObjectToFile(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: oss.Ptr("file.json")}, to))
		same(must(os.ReadFile(to)), body)
		equal(must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: oss.Ptr("file.json")})).ContentType, "application/json")
		reader, writer := io.Pipe()
		go func() {
			_, err := writer.Write(body)
			_ = writer.CloseWithError(err)
		}()
		must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("chunked"), Body: reader}))
		file := must(w.client.OpenFile(ctx, bucket, "chunked"))
		same(must(io.ReadAll(file)), body)
		must(file.Seek(-5, io.SeekEnd))
		same(must(io.ReadAll(file)), body[len(body)-5:])
		up := must(w.client.NewUploader().UploadFrom(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("up")}, strings.NewReader(string(body)), func(o *oss.UploaderOptions) { o.PartSize, o.ParallelNum = 200_000, 3 }))
		equal(up.HashCRC64, crcOf(body))
		down := must(w.client.NewDownloader().DownloadFile(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: oss.Ptr("up")}, to, func(o *oss.DownloaderOptions) { o.PartSize, o.ParallelNum = 100_000, 3 }))
		equal(down.Written, int64(len(body)))
		same(must(os.ReadFile(to)), body)
	}},
	{"appending", "AppendObject GetObject HeadObject", func(w *world) {
		bucket, key := w.bucket(), "log"
		one, two := w.bytes(70_000), w.bytes(5)
		add := func(position int64, body []byte, crc *string) (*oss.AppendObjectResult, error) {
			return w.client.AppendObject(ctx, &oss.AppendObjectRequest{Bucket: &bucket, Key: &key, Position: &position, Body: strings.NewReader(string(body)), InitHashCRC64: crc, Metadata: map[string]string{"a": "1"}})
		}
		first := must(add(0, one, oss.Ptr("0")))
		equal([]any{first.NextPosition, text(first.HashCRC64)}, []any{int64(70_000), crcOf(one)})
		second := must(add(first.NextPosition, two, first.HashCRC64))
		equal([]any{second.NextPosition, text(second.HashCRC64)}, []any{int64(70_005), crcOf(append(append([]byte{}, one...), two...))})
		head := must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key}))
		equal([]string{text(head.ObjectType), text(head.NextAppendPosition)}, []string{"Appendable", "70005"})
		equal(head.Metadata, map[string]string{"a": "1"})
		same(w.read(bucket, key), append(append([]byte{}, one...), two...))
		_, err := add(3, two, nil)
		equal(refused(err, 409, "PositionNotEqualToLength", "").Headers.Get("x-oss-next-append-position"), "70005")
		w.put(bucket, "plain", one)
		_, err = w.client.AppendObject(ctx, &oss.AppendObjectRequest{Bucket: &bucket, Key: oss.Ptr("plain"), Position: oss.Ptr(int64(70_000)), Body: strings.NewReader("x")})
		refused(err, 409, "ObjectNotAppendable", "")
		file := must(w.client.AppendFile(ctx, bucket, "file"))
		must(file.Write(one))
		must(file.Write(two))
		must(0, file.Close())
		same(w.read(bucket, "file"), append(append([]byte{}, one...), two...))
	}},
	{"sealing", "AppendObject SealAppendObject", func(w *world) {
		bucket, key := w.bucket(), "log"
		add := func(position int64) error {
			_, err := w.client.AppendObject(ctx, &oss.AppendObjectRequest{Bucket: &bucket, Key: &key, Position: &position, Body: strings.NewReader("12345")})
			return err
		}
		seal := func(position int64) (*oss.SealAppendObjectResult, error) {
			return w.client.SealAppendObject(ctx, &oss.SealAppendObjectRequest{Bucket: &bucket, Key: &key, Position: &position})
		}
		must(0, add(0))
		_, err := seal(3)
		refused(err, 409, "PositionNotEqualToLength", "")
		sealed := must(seal(5))
		must(http.ParseTime(text(sealed.SealedTime)))
		refused(add(5), 400, "AppendSealedObjectNotAllowed", "")
		equal(must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key})).Headers.Get("x-oss-sealed-time"), text(sealed.SealedTime))
		same(w.read(bucket, key), []byte("12345"))
	}},
	{"a callback after an upload", "Callback PutObject CompleteMultipartUpload", func(w *world) {
		bucket := w.bucket()
		callback := func(end string) *string {
			said := must(json.Marshal(map[string]string{"callbackUrl": w.callback + end, "callbackBody": `{"bucket":${bucket},"object":${object},"size":${size},"mine":${x:mine}}`, "callbackBodyType": "application/json"}))
			return oss.Ptr(base64.StdEncoding.EncodeToString(said))
		}
		variables := oss.Ptr(base64.StdEncoding.EncodeToString([]byte(`{"x:mine":"yes"}`)))
		put := must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("k"), Body: strings.NewReader("12345"), Callback: callback("/ok"), CallbackVar: variables}))
		equal(put.CallbackResult["json"], any(map[string]any{"bucket": bucket, "object": "k", "size": float64(5), "mine": "yes"}))
		upload := w.initiate(bucket, "m")
		part := w.part(bucket, "m", upload, 1, []byte("1234"))
		done := must(w.client.CompleteMultipartUpload(ctx, &oss.CompleteMultipartUploadRequest{Bucket: &bucket, Key: oss.Ptr("m"), UploadId: &upload, Callback: callback("/ok"), CallbackVar: variables,
			CompleteMultipartUpload: &oss.CompleteMultipartUpload{Parts: []oss.UploadPart{part}}}))
		equal(done.CallbackResult["json"], any(map[string]any{"bucket": bucket, "object": "m", "size": float64(4), "mine": "yes"}))
		_, err := w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("kept"), Body: strings.NewReader("1"), Callback: callback("/fail")})
		refused(err, 203, "CallbackFailed", "0007-00000203")
		same(w.read(bucket, "kept"), []byte("1"))
	}},
}

func sized(size int) testCase {
	return testCase{fmt.Sprintf("%d bytes there and back", size), "PutObject GetObject HeadObject GetObjectMeta DeleteObject", func(w *world) {
		bucket, key := w.bucket(), "dir/k"
		body := w.bytes(size)
		put := w.put(bucket, key, body)
		equal([]string{text(put.ETag), text(put.HashCRC64), text(put.ContentMD5)}, []string{etagOf(body), crcOf(body), md5Of(body)})
		got, result := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		same(got, body)
		equal([]any{result.ContentLength, text(result.ETag), text(result.HashCRC64), text(result.ContentMD5), text(result.ObjectType), text(result.StorageClass)},
			[]any{int64(size), etagOf(body), crcOf(body), md5Of(body), "Normal", "Standard"})
		head := must(w.client.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: &key}))
		equal([]any{head.ContentLength, text(head.ETag), text(head.HashCRC64), text(head.ContentMD5)}, []any{int64(size), etagOf(body), crcOf(body), md5Of(body)})
		equal(head.LastModified, oss.ToTime(result.LastModified))
		check(requestID.MatchString(head.Headers.Get("x-oss-request-id")), "request id %q", head.Headers.Get("x-oss-request-id"))
		equal(head.Headers.Get("Server"), "AliyunOSS")
		equal(head.Headers.Get("Accept-Ranges"), "bytes")
		meta := must(w.client.GetObjectMeta(ctx, &oss.GetObjectMetaRequest{Bucket: &bucket, Key: &key}))
		equal([]any{meta.ContentLength, text(meta.ETag), text(meta.HashCRC64)}, []any{int64(size), etagOf(body), crcOf(body)})
		check(must(w.client.IsObjectExist(ctx, bucket, key)), "it is said not to exist")
		equal(must(w.client.DeleteObject(ctx, &oss.DeleteObjectRequest{Bucket: &bucket, Key: &key})).StatusCode, 204)
		_, err := w.client.GetObject(ctx, &oss.GetObjectRequest{Bucket: &bucket, Key: &key})
		noKey(err)
	}}
}

func (w *world) get(request *oss.GetObjectRequest) ([]byte, *oss.GetObjectResult) {
	result := must(w.client.GetObject(ctx, request))
	defer result.Body.Close()
	return must(io.ReadAll(result.Body)), result
}

func (w *world) read(bucket, key string) []byte {
	body, _ := w.get(&oss.GetObjectRequest{Bucket: &bucket, Key: &key})
	return body
}

// address is the unsigned URL of an object.
func (w *world) address(bucket, key string) string {
	at := must(url.Parse(w.endpoint))
	at.Path = "/" + bucket + "/" + key
	return at.String()
}
