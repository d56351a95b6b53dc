// The official Go SDK v2 against the server that the environment names; see tests/sdk/clients/program.py.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss/credentials"
)

var ctx = context.Background()

// A world is one signature and one way to name buckets.
type world struct {
	name     string
	version  oss.SignatureVersionType
	endpoint string
	keyID    string
	secret   string
	region   string
	callback string
	http     *http.Client
	client   *oss.Client
	buckets  []string
	made     int
	random   *rand.Rand
}

func newWorld(name string, version oss.SignatureVersionType, byName bool) *world {
	server, err := url.Parse(os.Getenv("GRANARY_ENDPOINT"))
	if err != nil {
		panic(err)
	}
	domain := os.Getenv("GRANARY_DOMAIN")
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	transport := &http.Transport{
		MaxIdleConnsPerHost: 16,
		// The test domain and the buckets in it are names of that server, as a wildcard record would say.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err == nil && (host == domain || strings.HasSuffix(host, "."+domain)) {
				address = net.JoinHostPort(server.Hostname(), port)
			}
			return dialer.DialContext(ctx, network, address)
		},
	}
	w := &world{
		name: name, version: version, endpoint: server.String(), keyID: os.Getenv("GRANARY_KEY_ID"), secret: os.Getenv("GRANARY_KEY_SECRET"),
		region: os.Getenv("GRANARY_REGION"), callback: os.Getenv("GRANARY_CALLBACK"), http: &http.Client{Transport: transport, Timeout: time.Minute},
		random: rand.New(rand.NewSource(time.Now().UnixNano())),
	}
	if byName {
		w.endpoint = fmt.Sprintf("http://%s:%s", domain, server.Port())
	}
	w.client = w.as(w.keyID, w.secret)
	return w
}

// as makes a client with another key. It neither retries nor hides an answer that should have been right the first time.
func (w *world) as(keyID, secret string, more ...func(*oss.Config)) *oss.Client {
	config := oss.LoadDefaultConfig().
		WithCredentialsProvider(credentials.NewStaticCredentialsProvider(keyID, secret)).
		WithRegion(w.region).WithEndpoint(w.endpoint).WithSignatureVersion(w.version).WithHttpClient(w.http).WithRetryMaxAttempts(1)
	for _, change := range more {
		change(config)
	}
	return oss.NewClient(config)
}

func (w *world) bucketName(kind string) string {
	w.made++
	return fmt.Sprintf("%s-%s-%s-%d", os.Getenv("GRANARY_RUN"), w.name, kind, w.made)
}

// bucket makes a bucket that is removed after the case.
func (w *world) bucket() string {
	name := w.bucketName("b")
	must(w.client.PutBucket(ctx, &oss.PutBucketRequest{Bucket: &name}))
	w.buckets = append(w.buckets, name)
	return name
}

func (w *world) clean() error {
	for _, name := range w.buckets {
		if err := w.empty(name); err != nil {
			return fmt.Errorf("bucket %s is not empty: %w", name, err)
		}
	}
	w.buckets = nil
	return nil
}

func (w *world) empty(bucket string) error {
	for {
		page, err := w.client.ListObjectVersions(ctx, &oss.ListObjectVersionsRequest{Bucket: &bucket, MaxKeys: 1000, IsMix: true})
		if err != nil {
			if answer := serviceError(err); answer != nil && answer.Code == "NoSuchBucket" {
				return nil
			}
			return err
		}
		if len(page.ObjectVersionsDeleteMarkers) == 0 {
			break
		}
		var all []oss.DeleteObject
		for _, version := range page.ObjectVersionsDeleteMarkers {
			all = append(all, oss.DeleteObject{Key: version.Key, VersionId: version.VersionId})
		}
		if _, err := w.client.DeleteMultipleObjects(ctx, &oss.DeleteMultipleObjectsRequest{Bucket: &bucket, Objects: all, Quiet: true}); err != nil {
			return err
		}
	}
	uploads, err := w.client.ListMultipartUploads(ctx, &oss.ListMultipartUploadsRequest{Bucket: &bucket, MaxUploads: 1000})
	if err != nil {
		return err
	}
	for _, upload := range uploads.Uploads {
		if _, err := w.client.AbortMultipartUpload(ctx, &oss.AbortMultipartUploadRequest{Bucket: &bucket, Key: upload.Key, UploadId: upload.UploadId}); err != nil {
			return err
		}
	}
	_, err = w.client.DeleteBucket(ctx, &oss.DeleteBucketRequest{Bucket: &bucket})
	return err
}

func main() {
	worlds := []*world{
		newWorld("v4", oss.SignatureVersionV4, false),
		newWorld("v1", oss.SignatureVersionV1, false),
		newWorld("v4-name", oss.SignatureVersionV4, true),
	}
	var cases []testCase
	for _, group := range [][]testCase{bucketCases, settingCases, objectCases, multipartCases} {
		cases = append(cases, group...)
	}
	if err := runAll(worlds, cases); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
