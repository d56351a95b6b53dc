package main

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"
)

const missingBucket = "no-such-bucket-for-go"

// bucketCases walk service, region and bucket-basic.
var bucketCases = []testCase{
	{"regions", "DescribeRegions", func(w *world) {
		all := must(w.client.DescribeRegions(ctx, &oss.DescribeRegionsRequest{}))
		check(len(all.RegionInfoList.RegionInfos) > 0, "no region")
		one := must(w.client.DescribeRegions(ctx, &oss.DescribeRegionsRequest{Regions: oss.Ptr("oss-" + w.region)}))
		equal(len(one.RegionInfoList.RegionInfos), 1)
		region := one.RegionInfoList.RegionInfos[0]
		equal(region.Region, "oss-"+w.region)
		check(text(region.InternetEndpoint) != "" && text(region.InternalEndpoint) != "" && text(region.AccelerateEndpoint) != "", "a region without endpoints: %+v", region)
		_, err := w.client.DescribeRegions(ctx, &oss.DescribeRegionsRequest{Regions: oss.Ptr("oss-cn-nowhere")})
		refused(err, 404, "NoSuchRegion", "")
	}},
	{"buckets are listed in pages", "ListBuckets PutBucket DeleteBucket", func(w *world) {
		prefix := w.bucketName("list")
		var names []string
		for n := 0; n < 5; n++ {
			name := fmt.Sprintf("%s-%d", prefix, n)
			names = append(names, name)
			made := must(w.client.PutBucket(ctx, &oss.PutBucketRequest{Bucket: &name}))
			equal(made.Headers.Get("Location"), "/"+name)
			w.buckets = append(w.buckets, name)
		}
		var seen []string
		pages := w.client.NewListBucketsPaginator(&oss.ListBucketsRequest{Prefix: &prefix, MaxKeys: 2})
		for pages.HasNext() {
			page := must(pages.NextPage(ctx))
			check(len(page.Buckets) <= 2, "%d buckets on a page of 2", len(page.Buckets))
			check(text(page.Owner.ID) != "", "no owner")
			for _, bucket := range page.Buckets {
				seen = append(seen, text(bucket.Name))
				equal(bucket.Location, "oss-"+w.region)
				equal(bucket.Region, w.region)
				equal(bucket.StorageClass, "Standard")
				check(text(bucket.ExtranetEndpoint) != "" && text(bucket.IntranetEndpoint) != "", "no endpoints: %+v", bucket)
				check(time.Since(oss.ToTime(bucket.CreationDate)).Abs() < 10*time.Minute, "created %v", bucket.CreationDate)
			}
		}
		equal(seen, names)
		none := must(w.client.ListBuckets(ctx, &oss.ListBucketsRequest{Prefix: oss.Ptr(prefix + "-none")}))
		equal(len(none.Buckets), 0)
		equal(none.IsTruncated, false)
		_, err := w.client.ListBuckets(ctx, &oss.ListBucketsRequest{MaxKeys: 1001})
		refused(err, 400, "InvalidArgument", "")
	}},
	{"buckets are found by their tags", "ListBuckets PutBucketTags", func(w *world) {
		one, two := w.bucket(), w.bucket()
		w.putTags(one, "team", "a")
		w.putTags(two, "team", "b")
		find := func(request oss.ListBucketsRequest) (names []string) {
			for _, bucket := range must(w.client.ListBuckets(ctx, &request)).Buckets {
				names = append(names, text(bucket.Name))
			}
			return names
		}
		equal(find(oss.ListBucketsRequest{TagKey: oss.Ptr("team"), TagValue: oss.Ptr("a")}), []string{one})
		equal(find(oss.ListBucketsRequest{Tagging: oss.Ptr(`"team":"b"`)}), []string{two})
	}},
	{"a bucket is described", "PutBucket GetBucketInfo GetBucketLocation GetBucketStat", func(w *world) {
		name := w.bucketName("ia")
		must(w.client.PutBucket(ctx, &oss.PutBucketRequest{Bucket: &name, Acl: oss.BucketACLPrivate, CreateBucketConfiguration: &oss.CreateBucketConfiguration{
			StorageClass: oss.StorageClassIA, DataRedundancyType: oss.DataRedundancyLRS}}))
		w.buckets = append(w.buckets, name)
		info := must(w.client.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: &name})).BucketInfo
		equal(info.Name, name)
		equal(info.StorageClass, "IA")
		equal(info.DataRedundancyType, "LRS")
		equal(info.Location, "oss-"+w.region)
		equal(info.ACL, "private")
		equal(info.AccessMonitor, "Disabled")
		equal(info.TransferAcceleration, "Disabled")
		equal(info.CrossRegionReplication, "Disabled")
		equal(info.SseRule.SSEAlgorithm, "") // The client makes this of None.
		check(text(info.Owner.ID) != "" && text(info.Owner.DisplayName) != "", "no owner")
		check(strings.Contains(text(info.ExtranetEndpoint), strings.TrimPrefix(w.endpoint, "http://")), "endpoint %q is not %q", text(info.ExtranetEndpoint), w.endpoint)
		equal(must(w.client.GetBucketLocation(ctx, &oss.GetBucketLocationRequest{Bucket: &name})).LocationConstraint, "oss-"+w.region)
		w.put(name, "a", make([]byte, 1000))
		w.put(name, "b", make([]byte, 300_000))
		w.put(name, "a", make([]byte, 10))
		must(w.client.InitiateMultipartUpload(ctx, &oss.InitiateMultipartUploadRequest{Bucket: &name, Key: oss.Ptr("c")}))
		stat := must(w.client.GetBucketStat(ctx, &oss.GetBucketStatRequest{Bucket: &name}))
		equal([]int64{stat.Storage, stat.ObjectCount, stat.MultipartUploadCount, stat.InfrequentAccessObjectCount, stat.StandardObjectCount}, []int64{300_010, 2, 1, 2, 0})
		check(must(w.client.IsBucketExist(ctx, name)), "the bucket is said not to exist")
		check(!must(w.client.IsBucketExist(ctx, missingBucket)), "another bucket is said to exist")
	}},
	{"what a bucket refuses", "PutBucket DeleteBucket GetBucketInfo GetBucketLocation GetBucketStat ListObjects ListObjectsV2", func(w *world) {
		missing := oss.Ptr(missingBucket)
		_, err := w.client.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: missing})
		noBucket(err)
		_, err = w.client.GetBucketLocation(ctx, &oss.GetBucketLocationRequest{Bucket: missing})
		noBucket(err)
		_, err = w.client.GetBucketStat(ctx, &oss.GetBucketStatRequest{Bucket: missing})
		noBucket(err)
		_, err = w.client.ListObjects(ctx, &oss.ListObjectsRequest{Bucket: missing})
		noBucket(err)
		_, err = w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: missing})
		noBucket(err)
		_, err = w.client.DeleteBucket(ctx, &oss.DeleteBucketRequest{Bucket: missing})
		noBucket(err)
		bucket := w.bucket()
		must(w.client.PutBucket(ctx, &oss.PutBucketRequest{Bucket: &bucket}))
		_, err = w.client.PutBucket(ctx, &oss.PutBucketRequest{Bucket: &bucket, CreateBucketConfiguration: &oss.CreateBucketConfiguration{StorageClass: oss.StorageClassIA}})
		refused(err, 409, "BucketAlreadyExists", "")
		w.put(bucket, "k", []byte("1"))
		_, err = w.client.DeleteBucket(ctx, &oss.DeleteBucketRequest{Bucket: &bucket})
		refused(err, 409, "BucketNotEmpty", "")
	}},
	{"who signs wrongly is refused", "GetBucketInfo PutObject", func(w *world) {
		bucket := w.bucket()
		nobody := w.as("nobody", "secret")
		_, err := nobody.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: &bucket})
		equal(refused(err, 403, "InvalidAccessKeyId", "0002-00000902").Message, "The OSS Access Key Id you provided does not exist in our records.")
		_, err = nobody.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: oss.Ptr(missingBucket)})
		noBucket(err)
		_, err = nobody.HeadObject(ctx, &oss.HeadObjectRequest{Bucket: &bucket, Key: oss.Ptr("k")})
		refused(err, 403, "InvalidAccessKeyId", "0002-00000902")
		liar := w.as(w.keyID, "wrong")
		_, err = liar.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: oss.Ptr("k"), Body: strings.NewReader("x")})
		refused(err, 403, "SignatureDoesNotMatch", "")
		if w.version == oss.SignatureVersionV4 {
			elsewhere := w.as(w.keyID, w.secret, func(config *oss.Config) { config.WithRegion("cn-elsewhere") })
			_, err = elsewhere.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: &bucket})
			check(err != nil && serviceError(err) != nil && serviceError(err).StatusCode >= 400, "a signature for another region is accepted: %v", err)
			further := w.as(w.keyID, w.secret, func(config *oss.Config) { config.WithAdditionalHeaders([]string{"host", "user-agent"}) })
			must(further.GetBucketInfo(ctx, &oss.GetBucketInfoRequest{Bucket: &bucket}))
		}
	}},
	{"objects are listed in pages", "ListObjects ListObjectsV2", func(w *world) {
		bucket := w.bucket()
		keys := []string{"a", "b/1", "b/2", "b/3", "c & d", "e\x01f", "ü/日本"}
		for _, key := range keys {
			w.put(bucket, key, []byte(key))
		}
		var seen []string
		first := w.client.NewListObjectsPaginator(&oss.ListObjectsRequest{Bucket: &bucket, MaxKeys: 3})
		for first.HasNext() {
			page := must(first.NextPage(ctx))
			equal(page.Name, bucket)
			equal(page.MaxKeys, int32(3))
			for _, object := range page.Contents {
				seen = append(seen, text(object.Key))
				equal(object.ETag, etagOf([]byte(text(object.Key))))
				equal(object.Size, int64(len(text(object.Key))))
				equal(object.Type, "Normal")
				equal(object.StorageClass, "Standard")
				check(text(object.Owner.ID) != "", "no owner")
				check(time.Since(oss.ToTime(object.LastModified)).Abs() < 10*time.Minute, "modified %v", object.LastModified)
			}
		}
		equal(seen, keys)
		seen = nil
		second := w.client.NewListObjectsV2Paginator(&oss.ListObjectsV2Request{Bucket: &bucket, MaxKeys: 2})
		for second.HasNext() {
			page := must(second.NextPage(ctx))
			equal(page.KeyCount, len(page.Contents))
			for _, object := range page.Contents {
				seen = append(seen, text(object.Key))
				check(object.Owner == nil, "an owner nobody asked for")
			}
		}
		equal(seen, keys)
		folders := must(w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: &bucket, Delimiter: oss.Ptr("/"), FetchOwner: true}))
		equal(len(folders.CommonPrefixes), 2)
		equal(folders.CommonPrefixes[0].Prefix, "b/")
		equal(folders.CommonPrefixes[1].Prefix, "ü/")
		equal(folders.KeyCount, 5)
		check(text(folders.Contents[0].Owner.ID) != "", "no owner")
		after := must(w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: &bucket, StartAfter: oss.Ptr("b/2"), Prefix: oss.Ptr("b/")}))
		equal(len(after.Contents), 1)
		equal(after.StartAfter, "b/2")
		marked := must(w.client.ListObjects(ctx, &oss.ListObjectsRequest{Bucket: &bucket, Marker: oss.Ptr("c & d"), Delimiter: oss.Ptr("/")}))
		equal(len(marked.Contents)+len(marked.CommonPrefixes), 2)
		equal(marked.Marker, "c & d")
		_, err := w.client.ListObjects(ctx, &oss.ListObjectsRequest{Bucket: &bucket, MaxKeys: 1001})
		refused(err, 400, "InvalidArgument", "")
		_, err = w.client.ListObjectsV2(ctx, &oss.ListObjectsV2Request{Bucket: &bucket, ContinuationToken: oss.Ptr("not a token")})
		refused(err, 400, "InvalidArgument", "")
	}},
}

func (w *world) put(bucket, key string, body []byte) *oss.PutObjectResult {
	return must(w.client.PutObject(ctx, &oss.PutObjectRequest{Bucket: &bucket, Key: &key, Body: strings.NewReader(string(body))}))
}

func (w *world) putTags(bucket string, pairs ...string) {
	must(w.client.PutBucketTags(ctx, &oss.PutBucketTagsRequest{Bucket: &bucket, Tagging: &oss.Tagging{TagSet: &oss.TagSet{Tags: tags(pairs...)}}}))
}

// tags makes a set of tags from keys and values in turn.
func tags(pairs ...string) (set []oss.Tag) {
	for n := 0; n < len(pairs); n += 2 {
		set = append(set, oss.Tag{Key: oss.Ptr(pairs[n]), Value: oss.Ptr(pairs[n+1])})
	}
	return set
}

// shown makes sorted `key=value` texts of a set of tags.
func shown(set []oss.Tag) []string {
	texts := []string{}
	for _, tag := range set {
		texts = append(texts, text(tag.Key)+"="+text(tag.Value))
	}
	sort.Strings(texts)
	return texts
}
