// What is asked of the server through ali-oss: every operation that the client has, its answers and its errors.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { Readable } = require('node:stream');
const { test, refused, etagOf, md5Of, etagOfParts, crc64 } = require('./walk');

const NO_BUCKET = 'no-such-bucket-for-node';
const PART = 100 * 1024;

const headersOf = answer => answer.res.headers;


function checkObject(headers, body, type = 'Normal') {
  assert.equal(headers['content-length'], String(body.length));
  assert.equal(headers.etag, etagOf(body));
  assert.equal(headers['x-oss-hash-crc64ecma'], crc64(body));
  assert.equal(headers['content-md5'], md5Of(body));
  assert.equal(headers['x-oss-object-type'], type);
  assert.equal(headers['x-oss-storage-class'], 'Standard');
  assert.equal(headers['accept-ranges'], 'bytes');
  assert.match(headers['last-modified'], / GMT$/);
  assert.match(headers['x-oss-request-id'], /^[0-9A-F]{24}$/);
  assert.equal(headers.server, 'AliyunOSS');
}

// service and bucket-basic

test('buckets are listed in pages', 'ListBuckets PutBucket DeleteBucket', async world => {
  const client = world.client();
  const prefix = world.name_('list');
  const names = ['a', 'b', 'c'].map(end => `${prefix}-${end}`);
  for (const name of names) assert.equal((await client.putBucket(name)).bucket, name);
  const seen = [];
  let marker = null;
  do {
    const page = await client.listBuckets({ prefix, 'max-keys': 2, ...(marker ? { marker } : {}) });
    assert.ok(page.buckets.length <= 2);
    assert.ok(page.owner.id);
    for (const bucket of page.buckets) {
      seen.push(bucket.name);
      assert.equal(bucket.region, `oss-${world.region}`);
      assert.equal(bucket.storageClass, 'Standard');
      assert.ok(Math.abs(Date.now() - Date.parse(bucket.creationDate)) < 600_000);
    }
    assert.equal(page.isTruncated, page.nextMarker !== null);
    marker = page.nextMarker;
  } while (marker);
  assert.deepEqual(seen, names);
  for (const name of names) assert.equal((await client.deleteBucket(name)).res.status, 204);
});

test('no buckets are listed as none', 'ListBuckets', async world => {
  assert.equal((await world.client().listBuckets({ prefix: world.name_('none') })).buckets, null);
});

test('buckets are found by their tags', 'ListBuckets PutBucketTags', async world => {
  const [one, two] = [await world.bucket(), await world.bucket()];
  await one.putBucketTags(one.getBucket(), { team: 'a', place: 'x' });
  await two.putBucketTags(two.getBucket(), { team: 'b' });
  const find = async query => (await world.client().listBuckets({ prefix: world.prefix, ...query })).buckets.map(b => b.name);
  assert.deepEqual(await find({ 'tag-key': 'team', 'tag-value': 'a' }), [one.getBucket()]);
  assert.deepEqual(await find({ subres: { tagging: '"team":"b"' } }), [two.getBucket()]);
});

test('a bucket is described', 'PutBucket GetBucketInfo GetBucketLocation GetBucketStat', async world => {
  const client = await world.bucket({ storageClass: 'IA', dataRedundancyType: 'LRS', acl: 'private' });
  const name = client.getBucket();
  const { bucket } = await client.getBucketInfo(name);
  assert.equal(bucket.Name, name);
  assert.equal(bucket.StorageClass, 'IA');
  assert.equal(bucket.DataRedundancyType, 'LRS');
  assert.equal(bucket.Location, `oss-${world.region}`);
  assert.equal(bucket.AccessControlList.Grant, 'private');
  assert.ok(bucket.Owner.ID);
  assert.equal((await client.getBucketLocation(name)).location, `oss-${world.region}`);
  await client.put('a', Buffer.alloc(1000));
  await client.initMultipartUpload('b');
  const { stat } = await client.getBucketStat(name);
  assert.equal(stat.Storage, '1000');
  assert.equal(stat.ObjectCount, '1');
  assert.equal(stat.MultipartUploadCount, '1');
  assert.equal(stat.InfrequentAccessObjectCount, '1');
});

test('what a bucket refuses', 'PutBucket DeleteBucket GetBucketInfo GetBucketLocation ListObjects', async world => {
  const client = await world.bucket();
  const name = client.getBucket();
  const stranger = world.client({ bucket: NO_BUCKET });
  await refused(() => stranger.getBucketInfo(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => stranger.getBucketLocation(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => stranger.getBucketStat(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => stranger.list(), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => stranger.listV2(), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => stranger.deleteBucket(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
  await refused(() => client.putBucket(name, { storageClass: 'IA' }), 409, 'BucketAlreadyExists');
  await client.putBucket(name);
  await client.put('k', Buffer.from('1'));
  await refused(() => client.deleteBucket(name), 409, 'BucketNotEmpty');
  await client.delete('k');
  const { uploadId } = await client.initMultipartUpload('u');
  await refused(() => client.deleteBucket(name), 409, 'BucketNotEmpty');
  await client.abortMultipartUpload('u', uploadId);
  assert.equal((await client.deleteBucket(name)).res.status, 204);
  await refused(() => client.getBucketInfo(name), 404, 'NoSuchBucket', '0015-00000101');
});

test('who signs wrongly is refused', 'GetBucketInfo PutObject GetObject', async world => {
  const name = (await world.bucket()).getBucket();
  const nobody = world.client({ bucket: name, accessKeyId: 'nobody' });
  const error = await refused(() => nobody.getBucketInfo(name), 403, 'InvalidAccessKeyId', '0002-00000902');
  assert.equal(error.message, 'The OSS Access Key Id you provided does not exist in our records.');
  await refused(() => world.client({ accessKeyId: 'nobody' }).getBucketInfo(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
  const liar = world.client({ bucket: name, accessKeySecret: 'wrong' });
  await refused(() => liar.put('k', Buffer.from('1')), 403, 'SignatureDoesNotMatch');
  await refused(() => liar.get('k'), 403, 'SignatureDoesNotMatch');
  const late = world.client({ bucket: name, amendTimeSkewed: 20 * 60 * 1000 });
  await refused(() => late.get('k'), 403, 'RequestTimeTooSkewed', '0002-00000504');
});

test('objects are listed in pages', 'ListObjects ListObjectsV2 PutObject', async world => {
  const client = await world.bucket();
  const keys = ['a', 'b/1', 'b/2', 'b/3', 'c & d', 'e'];
  for (const key of keys) await client.put(key, Buffer.from(key));

  const seen = [];
  let marker = null;
  do {
    const page = await client.list({ 'max-keys': 4, ...(marker ? { marker } : {}) });
    for (const object of page.objects) {
      seen.push(object.name);
      assert.equal(object.etag, etagOf(object.name));
      assert.equal(object.size, object.name.length);
      assert.equal(object.type, 'Normal');
      assert.equal(object.storageClass, 'Standard');
      assert.ok(object.owner.id);
      assert.match(object.lastModified, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z$/);
    }
    assert.equal(page.isTruncated, page.nextMarker !== null);
    marker = page.nextMarker;
  } while (marker);
  assert.deepEqual(seen, keys);

  // An empty value is signed and sent as any other.
  assert.deepEqual((await client.list({ prefix: '' })).objects.map(o => o.name), keys);
  assert.deepEqual((await client.list({ prefix: '', marker: '', delimiter: '' })).objects.map(o => o.name), keys);
  assert.deepEqual((await client.listV2({ prefix: '' })).objects.map(o => o.name), keys);
  assert.deepEqual((await client.getBucketVersions({ prefix: '' })).objects.map(o => o.name), keys);
  assert.deepEqual((await client.listUploads({ prefix: '' })).uploads, []);

  const folders = await client.list({ delimiter: '/' });
  assert.deepEqual(folders.prefixes, ['b/']);
  assert.deepEqual(folders.objects.map(o => o.name), ['a', 'c & d', 'e']);
  assert.deepEqual((await client.list({ prefix: 'b/' })).objects.map(o => o.name), ['b/1', 'b/2', 'b/3']);
  const none = await client.list({ prefix: 'none' });
  assert.deepEqual([none.objects, none.prefixes, none.isTruncated], [[], null, false]);

  const second = [];
  let token;
  do {
    const page = await client.listV2({ 'max-keys': '4', ...(token ? { 'continuation-token': token } : {}) });
    assert.equal(page.keyCount, page.objects.length);
    assert.equal(page.objects[0].owner, null);
    second.push(...page.objects.map(o => o.name));
    assert.equal(page.isTruncated, page.nextContinuationToken !== null);
    token = page.nextContinuationToken;
  } while (token);
  assert.deepEqual(second, keys);
  const after = await client.listV2({ 'start-after': 'b/2', 'fetch-owner': 'true' });
  assert.deepEqual(after.objects.map(o => o.name), ['b/3', 'c & d', 'e']);
  assert.ok(after.objects[0].owner.id);
  await refused(() => client.list({ 'max-keys': 1001 }), 400, 'InvalidArgument');
});

// acl, tags, cors, versioning

test('the ACL of a bucket', 'PutBucketAcl GetBucketAcl PutObject GetObject', async world => {
  const client = await world.bucket();
  const name = client.getBucket();
  assert.equal((await client.getBucketACL(name)).acl, 'private');
  const url = client._objectUrl('k');
  await client.put('k', Buffer.from('open?'));
  assert.equal((await fetch(url)).status, 403);
  for (const acl of ['public-read', 'public-read-write', 'private']) {
    await client.putBucketACL(name, acl);
    const got = await client.getBucketACL(name);
    assert.equal(got.acl, acl);
    assert.ok(got.owner.id);
    const answer = await fetch(url);
    assert.equal(answer.status, acl === 'private' ? 403 : 200);
    if (acl !== 'private') assert.equal(await answer.text(), 'open?');
    const put = await fetch(url, { method: 'PUT', body: 'open?' });
    assert.equal(put.status, acl === 'public-read-write' ? 200 : 403);
  }
  await refused(() => client.putBucketACL(name, 'everybody'), 400, 'InvalidArgument');
  await refused(() => client.getBucketACL(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
});

test('the tags of a bucket', 'PutBucketTags GetBucketTags DeleteBucketTags', async world => {
  const client = await world.bucket();
  const name = client.getBucket();
  assert.deepEqual((await client.getBucketTags(name)).tag, {});
  await client.putBucketTags(name, { team: 'storage', 'cost centre': '42' });
  assert.deepEqual((await client.getBucketTags(name)).tag, { team: 'storage', 'cost centre': '42' });
  await client.putBucketTags(name, { only: '' });
  assert.deepEqual((await client.getBucketTags(name)).tag, { only: '' });
  assert.equal((await client.deleteBucketTags(name)).status, 204);
  assert.deepEqual((await client.getBucketTags(name)).tag, {});
  await refused(() => client.getBucketTags(NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
});

test('the CORS rules of a bucket', 'PutBucketCors GetBucketCors DeleteBucketCors OptionObject', async world => {
  const client = await world.bucket();
  const name = client.getBucket();
  await refused(() => client.getBucketCORS(name), 404, 'NoSuchCORSConfiguration');
  await client.putBucketCORS(name, [
    { allowedOrigin: 'http://one.example', allowedMethod: ['GET', 'PUT'], allowedHeader: '*', exposeHeader: ['ETag', 'x-oss-request-id'], maxAgeSeconds: '60' },
    { allowedOrigin: '*', allowedMethod: 'HEAD' },
  ]);
  const { rules } = await client.getBucketCORS(name);
  assert.deepEqual(rules.map(r => ({ ...r })), [
    { allowedOrigin: 'http://one.example', allowedMethod: ['GET', 'PUT'], allowedHeader: '*', exposeHeader: ['ETag', 'x-oss-request-id'], maxAgeSeconds: '60' },
    { allowedOrigin: '*', allowedMethod: 'HEAD' },
  ]);
  const url = client._objectUrl('k');
  const asked = { Origin: 'http://one.example', 'Access-Control-Request-Method': 'PUT', 'Access-Control-Request-Headers': 'x-oss-meta-a' };
  const allowed = await fetch(url, { method: 'OPTIONS', headers: asked });
  assert.equal(allowed.status, 200);
  assert.equal(allowed.headers.get('access-control-allow-origin'), 'http://one.example');
  assert.match(allowed.headers.get('access-control-allow-methods'), /PUT/);
  assert.equal(allowed.headers.get('access-control-max-age'), '60');
  const denied = await fetch(url, { method: 'OPTIONS', headers: { ...asked, Origin: 'http://two.example' } });
  assert.equal(denied.status, 403);
  assert.match(await denied.text(), /<Code>AccessForbidden<\/Code>/);
  assert.equal((await client.deleteBucketCORS(name)).res.status, 204);
  await refused(() => client.getBucketCORS(name), 404, 'NoSuchCORSConfiguration');
});

test('versions', 'PutBucketVersioning GetBucketVersioning ListObjectVersions GetObject DeleteObject CopyObject DeleteMultipleObjects', async world => {
  const client = await world.bucket();
  const name = client.getBucket();
  assert.equal((await client.getBucketVersioning(name)).versionStatus, undefined);
  await client.put('k', Buffer.from('null'));
  await client.putBucketVersioning(name, 'Enabled');
  assert.equal((await client.getBucketVersioning(name)).versionStatus, 'Enabled');
  const ids = [];
  for (const body of ['one', 'two']) ids.push(headersOf(await client.put('k', Buffer.from(body)))['x-oss-version-id']);
  assert.equal(new Set(ids).size, 2);
  for (const [versionId, body] of [['null', 'null'], [ids[0], 'one'], [ids[1], 'two']]) {
    const got = await client.get('k', { versionId });
    assert.equal(String(got.content), body);
    assert.equal(headersOf(got)['x-oss-version-id'], versionId);
    assert.equal(headersOf(await client.getObjectMeta('k', { versionId }))['content-length'], String(body.length));
  }
  const marker = headersOf(await client.delete('k'));
  assert.equal(marker['x-oss-delete-marker'], 'true');
  const gone = await refused(() => client.get('k'), 404, 'NoSuchKey', '0026-00000001');
  assert.ok(gone);
  await refused(() => client.get('k', { versionId: marker['x-oss-version-id'] }), 405, 'MethodNotAllowed');
  await refused(() => client.get('k', { versionId: 'no version' }), 400, 'InvalidArgument');

  const listed = await client.getBucketVersions({ prefix: 'k' });
  assert.deepEqual(listed.objects.map(o => [o.versionId, o.isLatest, o.etag, o.size]),
    [[ids[1], false, etagOf('two'), 3], [ids[0], false, etagOf('one'), 3], ['null', false, etagOf('null'), 4]]);
  assert.deepEqual(listed.deleteMarker.map(m => [m.name, m.versionId]), [['k', marker['x-oss-version-id']]]);
  const first = await client.getBucketVersions({ maxKeys: 2 });
  assert.equal(first.isTruncated, true);
  const second = await client.getBucketVersions({ keyMarker: first.nextKeyMarker, versionIdMarker: first.nextVersionIdMarker });
  assert.deepEqual(second.objects.map(o => o.versionId), [ids[0], 'null']);

  const copied = await client.copy('copy', 'k', { versionId: ids[0] });
  assert.equal(headersOf(copied)['x-oss-copy-source-version-id'], ids[0]);
  assert.equal(String((await client.get('copy')).content), 'one');
  assert.equal((await client.delete('k', { versionId: marker['x-oss-version-id'] })).res.status, 204);
  assert.equal(String((await client.get('k')).content), 'two');
  const { deleted } = await client.deleteMulti([{ key: 'k', versionId: ids[0] }, { key: 'k', versionId: ids[1] }]);
  assert.deepEqual(deleted.map(d => d.VersionId).sort(), [...ids].sort());
  await refused(() => client.get('k', { versionId: ids[0] }), 404, 'NoSuchVersion');
  assert.equal(String((await client.get('k')).content), 'null');
  await client.putBucketVersioning(name, 'Suspended');
  assert.equal((await client.getBucketVersioning(name)).versionStatus, 'Suspended');
  assert.equal(headersOf(await client.put('k', Buffer.from('over')))['x-oss-version-id'], 'null');
  assert.equal((await client.getBucketVersions({ prefix: 'k' })).objects.length, 1);
});

// object-basic

for (const size of [0, 1, 4097, 65537, 300_000, (4 << 20) + 1]) {
  test(`${size} bytes there and back`, 'PutObject GetObject HeadObject GetObjectMeta DeleteObject', async world => {
    const client = await world.bucket();
    const body = world.random(size);
    const put = await client.put('dir/k', body);
    assert.equal(put.res.status, 200);
    assert.equal(headersOf(put).etag, etagOf(body));
    assert.equal(headersOf(put)['x-oss-hash-crc64ecma'], crc64(body));
    assert.equal(headersOf(put)['content-md5'], md5Of(body));
    const got = await client.get('dir/k');
    assert.ok(body.equals(got.content));
    checkObject(headersOf(got), body);
    checkObject(headersOf(await client.head('dir/k')), body);
    const meta = headersOf(await client.getObjectMeta('dir/k'));
    assert.deepEqual([meta['content-length'], meta.etag], [String(size), etagOf(body)]);
    assert.equal((await client.delete('dir/k')).res.status, 204);
    await refused(() => client.get('dir/k'), 404, 'NoSuchKey', '0026-00000001');
    await refused(() => client.head('dir/k'), 404, 'NoSuchKey');
    assert.equal((await client.delete('dir/k')).res.status, 204);
  });
}

test('streams in, streams out, and files', 'PutObject GetObject', async world => {
  const client = await world.bucket();
  const body = world.random(700_001);
  const pieces = [body.subarray(0, 100_000), body.subarray(100_000, 100_001), body.subarray(100_001)];
  const put = await client.putStream('chunked', Readable.from(pieces));
  assert.equal(headersOf(put).etag, etagOf(body));
  const { stream } = await client.getStream('chunked');
  const read = [];
  for await (const piece of stream) read.push(piece);
  assert.ok(body.equals(Buffer.concat(read)));
  const place = fs.mkdtempSync(path.join(os.tmpdir(), 'granary-node-'));
  try {
    fs.writeFileSync(path.join(place, 'in.json'), body);
    await client.put('file.json', path.join(place, 'in.json'));
    await client.get('file.json', path.join(place, 'out'));
    assert.ok(body.equals(fs.readFileSync(path.join(place, 'out'))));
    assert.equal(headersOf(await client.head('file.json'))['content-type'], 'application/json');
  } finally {
    fs.rmSync(place, { recursive: true });
  }
});

test('headers and user metadata are kept', 'PutObject HeadObject GetObject CopyObject', async world => {
  const client = await world.bucket();
  const headers = {
    'Cache-Control': 'no-cache', 'Content-Disposition': 'attachment; filename="x.txt"', 'Content-Encoding': 'identity', Expires: 'Fri, 28 Feb 2031 05:38:42 GMT',
    'Content-Language': 'en',
  };
  await client.put('k', Buffer.from('x'), { mime: 'text/x-granary', meta: { people: '8', 'with-dash': 'a b' }, headers: { ...headers } });
  const head = await client.head('k');
  assert.deepEqual(head.meta, { people: '8', 'with-dash': 'a b' });
  for (const [name, value] of Object.entries(headers)) assert.equal(headersOf(head)[name.toLowerCase()], value);
  assert.equal(headersOf(head)['content-type'], 'text/x-granary');
  const other = await client.get('k', { subres: { 'response-content-type': 'text/plain', 'response-cache-control': 'max-age=1' } });
  assert.equal(headersOf(other)['content-type'], 'text/plain');
  assert.equal(headersOf(other)['cache-control'], 'max-age=1');
  await client.putMeta('k', { people: '9' });
  assert.deepEqual((await client.head('k')).meta, { people: '9' });
  assert.equal(String((await client.get('k')).content), 'x');
});

test('ranges', 'GetObject', async world => {
  const client = await world.bucket();
  const body = world.random(200_000);
  await client.put('k', body);
  const range = async (text, more = {}) => client.get('k', { headers: { Range: text, ...more } });
  for (const [text, from, to] of [['bytes=0-0', 0, 1], ['bytes=5-100', 5, 101], ['bytes=199999-', 199_999, 200_000], ['bytes=-10', 199_990, 200_000]]) {
    const got = await range(text);
    assert.equal(got.res.status, 206);
    assert.ok(body.subarray(from, to).equals(got.content));
    assert.equal(headersOf(got)['content-range'], `bytes ${from}-${to - 1}/200000`);
    assert.equal(headersOf(got)['content-length'], String(to - from));
  }
  for (const text of ['bytes=9-5', 'bytes=0-200000', 'bytes=200000-', 'lines=1-2']) {
    const got = await range(text);
    assert.deepEqual([got.res.status, got.content.length, headersOf(got)['content-range']], [200, 200_000, undefined], text);
  }
  const standard = { 'x-oss-range-behavior': 'standard' };
  const cut = await range('bytes=199990-300000', standard);
  assert.deepEqual([cut.res.status, cut.content.length], [206, 10]);
  await refused(() => range('bytes=200000-', standard), 416, 'InvalidRange');
  await refused(() => range('bytes=-0'), 416, 'InvalidRange');
});

test('conditions', 'GetObject HeadObject PutObject', async world => {
  const client = await world.bucket();
  const put = await client.put('k', Buffer.from('x'));
  const { etag } = headersOf(put);
  const past = 'Fri, 01 Jan 2021 00:00:00 GMT';
  const future = new Date(Date.now() + 60_000).toUTCString();
  const get = headers => client.get('k', { headers });
  assert.equal((await get({ 'If-Match': etag })).res.status, 200);
  assert.equal((await get({ 'If-None-Match': '"0"' })).res.status, 200);
  assert.equal((await get({ 'If-Modified-Since': past })).res.status, 200);
  assert.equal((await get({ 'If-Unmodified-Since': future })).res.status, 200);
  await refused(() => get({ 'If-Match': '"0"' }), 412, 'PreconditionFailed');
  await refused(() => get({ 'If-Unmodified-Since': past }), 412, 'PreconditionFailed');
  assert.equal((await get({ 'If-None-Match': etag })).res.status, 304);
  assert.equal((await client.head('k', { headers: { 'If-None-Match': etag } })).status, 304);
  await refused(() => client.put('k', Buffer.from('y'), { headers: { 'x-oss-forbid-overwrite': 'true' } }), 409, 'FileAlreadyExists');
  assert.equal(String((await client.get('k')).content), 'x');
  await client.put('n', Buffer.from('y'), { headers: { 'x-oss-forbid-overwrite': 'true' } });
});

// The client sends a condition of a copy under both names.
test('a copy under conditions', 'CopyObject', async world => {
  const client = await world.bucket();
  const { etag } = headersOf(await client.put('k', Buffer.from('x')));
  const error = await refused(() => client.copy('c', 'k', { headers: { 'If-Match': '"0"' } }), 412, 'PreconditionFailed');
  assert.equal(error.message, 'At least one of the pre-conditions you specified did not hold. (condition: If-Match)');
  assert.equal((await client.copy('c', 'k', { headers: { 'If-Match': etag } })).data.etag, etag);
  assert.equal((await client.copy('c', 'k', { headers: { 'If-None-Match': etag } })).res.status, 304);
});

test('what an upload must not be', 'PutObject', async world => {
  const client = await world.bucket();
  await refused(() => client.put('k', Buffer.from('x'), { headers: { 'Content-MD5': md5Of('other') } }), 400, 'InvalidDigest');
  await refused(() => client.get('k'), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.put('k'.repeat(1024), Buffer.from('x')), 400, 'InvalidObjectName');
  await refused(() => client.put('k', Buffer.from('x'), { headers: { 'x-oss-storage-class': 'Frozen' } }), 400, 'InvalidArgument');
  await refused(() => world.client({ bucket: NO_BUCKET }).put('k', Buffer.from('x')), 404, 'NoSuchBucket', '0015-00000101');
});

test('copies', 'CopyObject', async world => {
  const client = await world.bucket();
  const other = await world.bucket();
  const body = world.random(150_000);
  await client.put('dir/source & more', body, { meta: { a: '1' }, mime: 'text/x-granary' });
  const copied = await client.copy('copy', 'dir/source & more');
  assert.equal(copied.data.etag, etagOf(body));
  assert.match(copied.data.lastModified, /Z$/);
  const got = await client.get('copy');
  assert.ok(body.equals(got.content));
  assert.equal(headersOf(got)['x-oss-meta-a'], '1');
  assert.equal(headersOf(got)['content-type'], 'text/x-granary');
  await other.copy('copy', 'dir/source & more', client.getBucket(), { meta: { b: '2' } });
  const moved = await other.head('copy');
  assert.deepEqual(moved.meta, { b: '2' });
  checkObject(headersOf(moved), body);
  await refused(() => client.copy('x', 'none'), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.copy('x', 'none', NO_BUCKET), 404, 'NoSuchBucket', '0015-00000101');
});

test('many deletions at once', 'DeleteMultipleObjects', async world => {
  const client = await world.bucket();
  const keys = ['a', 'b & c', 'd/e', '日本'];
  for (const key of keys) await client.put(key, Buffer.from('x'));
  const { deleted } = await client.deleteMulti([...keys, 'never']);
  assert.deepEqual(deleted.map(d => d.Key).sort(), [...keys, 'never'].sort());
  assert.deepEqual((await client.list()).objects, []);
  await client.put('a', Buffer.from('x'));
  assert.deepEqual((await client.deleteMulti(['a'], { quiet: true })).deleted, []);
  assert.deepEqual((await client.list()).objects, []);
  await refused(() => client.deleteMulti(Array.from({ length: 1001 }, (_, n) => `k${n}`)), 400, 'MalformedXML');
});

test('keys as people choose them', 'PutObject GetObject ListObjects DeleteObject', async world => {
  const client = await world.bucket();
  const keys = ['空 格/日本語.txt', 'a+b&c=d?e#f', '100%/%41', "quote'\"<>", 'tail/', 'dots../x', 'tab\tnew', '~!@$^*()_-=[]{}|;:,'];
  for (const key of keys) await client.put(key, Buffer.from(key));
  for (const key of keys) assert.equal(String((await client.get(key)).content), key);
  const listed = (await client.list({ 'encoding-type': 'url' })).objects.map(o => decodeURIComponent(o.name));
  assert.deepEqual(listed, [...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
  for (const key of keys) await client.delete(key);
  assert.deepEqual((await client.list()).objects, []);
});

test('addresses that are signed', 'GetObject PutObject', async world => {
  const client = await world.bucket();
  await client.put('dir/a b', Buffer.from('signed'));
  const sign = async (method, more = {}) => {
    if (world.v4) return client.signatureUrlV4(method, more.expires || 60, { headers: more.headers, queries: more.queries }, 'dir/a b');
    return client.signatureUrl('dir/a b', { method, expires: more.expires || 60, 'Content-Type': more.headers && more.headers['Content-Type'], response: more.response });
  };
  const got = await fetch(await sign('GET'));
  assert.deepEqual([got.status, await got.text()], [200, 'signed']);
  const put = await fetch(await sign('PUT', { headers: { 'Content-Type': 'text/plain' } }), { method: 'PUT', body: 'put', headers: { 'Content-Type': 'text/plain' } });
  assert.equal(put.status, 200);
  assert.equal(put.headers.get('etag'), etagOf('put'));
  const named = await fetch(await sign('GET', { response: { 'content-type': 'text/html' }, queries: { 'response-content-type': 'text/html' } }));
  assert.deepEqual([named.headers.get('content-type'), await named.text()], ['text/html', 'put']);
  const spoilt = await fetch(`${await sign('GET')}x`);
  assert.equal(spoilt.status, 403);
  assert.match(await spoilt.text(), /<Code>SignatureDoesNotMatch<\/Code>/);
  assert.equal((await fetch(await sign('GET'), { method: 'DELETE' })).status, 403);
  const late = await fetch(await sign('GET', { expires: -10 }));
  assert.deepEqual([late.status, /<Code>(AccessDenied|InvalidArgument)<\/Code>/.test(await late.text())], [world.v4 ? late.status : 403, true]);
});

test('appending', 'AppendObject GetObject HeadObject', async world => {
  const client = await world.bucket();
  const [one, two] = [world.random(70_000), world.random(5)];
  const first = await client.append('log', one, { meta: { a: '1' } });
  assert.equal(first.nextAppendPosition, '70000');
  assert.equal(headersOf(first)['x-oss-hash-crc64ecma'], crc64(one));
  const second = await client.append('log', two, { position: first.nextAppendPosition });
  assert.equal(second.nextAppendPosition, '70005');
  assert.equal(headersOf(second)['x-oss-hash-crc64ecma'], crc64(Buffer.concat([one, two])));
  const got = await client.get('log');
  assert.ok(Buffer.concat([one, two]).equals(got.content));
  assert.equal(headersOf(got)['x-oss-object-type'], 'Appendable');
  assert.equal(headersOf(got)['x-oss-next-append-position'], '70005');
  assert.equal(headersOf(got)['x-oss-meta-a'], '1');
  await refused(() => client.append('log', two, { position: 3 }), 409, 'PositionNotEqualToLength');
  await client.put('plain', one);
  await refused(() => client.append('plain', two, { position: 70_000 }), 409, 'ObjectNotAppendable');
});

// What a form says, with the signature of the world's version.
function form(world, client, fields, conditions, expires = Date.now() + 60_000) {
  const bucket = { bucket: client.getBucket() };
  const all = { ...fields };
  const policy = { expiration: new Date(expires).toISOString(), conditions: [bucket, ...conditions] };
  if (world.v4) {
    const now = new Date();
    const stamp = now.toISOString().replace(/[-:]|\.\d+/g, '');
    all['x-oss-signature-version'] = 'OSS4-HMAC-SHA256';
    all['x-oss-credential'] = `${world.credentials.id}/${stamp.slice(0, 8)}/${world.region}/oss/aliyun_v4_request`;
    all['x-oss-date'] = stamp;
    for (const name of ['x-oss-signature-version', 'x-oss-credential', 'x-oss-date']) policy.conditions.push({ [name]: all[name] });
    all.policy = Buffer.from(JSON.stringify(policy)).toString('base64');
    all['x-oss-signature'] = client.signPostObjectPolicyV4(policy, now);
  } else {
    Object.assign(all, client.calculatePostSignature(policy));
  }
  const data = new FormData();
  for (const [name, value] of Object.entries(all)) data.append(name, value);
  return data;
}

async function post(world, client, data, body, name = 'up.txt') {
  data.append('file', new Blob([body], { type: 'text/x-part' }), name);
  const answer = await fetch(world.formUrl(client.getBucket()), { method: 'POST', body: data, redirect: 'manual' });
  return { status: answer.status, headers: answer.headers, text: await answer.text() };
}

test('posting a form', 'PostObject GetObject HeadObject', async world => {
  const client = await world.bucket();
  const body = world.random(150_000);
  const plain = await post(world, client, form(world, client, { key: 'forms/${filename}', 'x-oss-meta-a': '1' }, [['starts-with', '$key', 'forms/']]), body, 'a b.bin');
  assert.deepEqual([plain.status, plain.text], [204, '']);
  assert.equal(plain.headers.get('etag'), etagOf(body));
  const got = await client.get('forms/a b.bin');
  assert.ok(body.equals(got.content));
  assert.equal(headersOf(got)['x-oss-meta-a'], '1');
  assert.equal(headersOf(got)['content-type'], 'text/x-part');
  const made = await post(world, client, form(world, client, { key: 'k', success_action_status: '201' }, [['eq', '$key', 'k']]), 'x');
  assert.equal(made.status, 201);
  assert.match(made.text, /<PostResponse>/);
  assert.match(made.text, /<Key>k<\/Key>/);
  assert.match(made.text, new RegExp(`<Bucket>${client.getBucket()}</Bucket>`));
  const sent = await post(world, client, form(world, client, { key: 'k', success_action_redirect: 'http://elsewhere.example/done' }, []), 'x');
  assert.equal(sent.status, 303);
  assert.match(sent.headers.get('location'), /^http:\/\/elsewhere\.example\/done\?/);
});

test('forms that are refused', 'PostObject', async world => {
  const client = await world.bucket();
  const check = async (data, body, status, code) => {
    const answer = await post(world, client, data, body);
    assert.deepEqual([answer.status, (/<Code>(.*)<\/Code>/.exec(answer.text) || [])[1]], [status, code], answer.text);
  };
  await check(form(world, client, { key: 'other' }, [['eq', '$key', 'k']]), 'x', 403, 'AccessDenied');
  await check(form(world, client, { key: 'k' }, [['content-length-range', 1, 3]]), 'four', 400, 'EntityTooLarge');
  await check(form(world, client, { key: 'k' }, [['content-length-range', 5, 9]]), 'four', 400, 'EntityTooSmall');
  await check(form(world, client, { key: 'k' }, [], Date.now() - 1000), 'x', 403, 'AccessDenied');
  await check(form(world, world.client({ bucket: client.getBucket(), accessKeySecret: 'wrong' }), { key: 'k' }, []), 'x', 403, 'SignatureDoesNotMatch');
  const anonymous = new FormData();
  anonymous.append('key', 'k');
  await check(anonymous, 'x', 403, 'AccessDenied');
  assert.deepEqual((await client.list()).objects, []);
});

test('a callback after an upload', 'Callback PutObject CompleteMultipartUpload', async world => {
  const client = await world.bucket();
  const callback = {
    url: `${world.callback}/ok`, body: 'bucket=${bucket}&object=${object}&size=${size}&mine=${x:mine}', contentType: 'application/x-www-form-urlencoded',
    customValue: { mine: 'yes' },
  };
  const put = await client.put('k', Buffer.from('12345'), { callback });
  assert.equal(put.res.status, 200);
  assert.deepEqual(put.data.form, { bucket: client.getBucket(), object: 'k', size: '5', mine: 'yes' });
  const { uploadId } = await client.initMultipartUpload('m');
  const part = await client.uploadPart('m', uploadId, 1, world.random(PART), 0, PART);
  const done = await client.completeMultipartUpload('m', uploadId, [{ number: 1, etag: part.etag }], { callback });
  assert.deepEqual(done.data.form, { bucket: client.getBucket(), object: 'm', size: String(PART), mine: 'yes' });
  await refused(() => client.put('kept', Buffer.from('1'), { callback: { ...callback, url: `${world.callback}/fail` } }), 203, 'CallbackFailed', '0007-00000203');
  assert.equal(String((await client.get('kept')).content), '1');
});

// multipart

async function uploaded(client, key, parts, options) {
  const { uploadId } = await client.initMultipartUpload(key, options);
  const done = [];
  for (const [n, body] of parts.entries()) {
    const part = await client.uploadPart(key, uploadId, n + 1, body, 0, body.length);
    assert.equal(part.etag, etagOf(body));
    done.push({ number: n + 1, etag: part.etag });
  }
  return { uploadId, done };
}

test('an upload in parts', 'InitiateMultipartUpload UploadPart ListParts ListMultipartUploads CompleteMultipartUpload', async world => {
  const client = await world.bucket();
  const parts = [world.random(PART), world.random(PART + 1), world.random(7)];
  const { uploadId, done } = await uploaded(client, 'big', parts, { meta: { a: '1' }, mime: 'text/x-granary' });
  const listed = await client.listParts('big', uploadId);
  assert.deepEqual(listed.parts.map(p => [p.PartNumber, p.ETag, p.Size]), parts.map((body, n) => [String(n + 1), etagOf(body), String(body.length)]));
  assert.deepEqual([listed.uploadId, listed.bucket, listed.name, listed.isTruncated], [uploadId, client.getBucket(), 'big', 'false']);
  const page = await client.listParts('big', uploadId, { 'max-parts': 2 });
  assert.deepEqual([page.isTruncated, page.nextPartNumberMarker], ['true', '2']);
  assert.deepEqual((await client.listUploads({ 'max-uploads': 10 })).uploads.map(u => [u.name, u.uploadId]), [['big', uploadId]]);
  const complete = await client.completeMultipartUpload('big', uploadId, done);
  assert.equal(complete.etag, etagOfParts(parts));
  const whole = Buffer.concat(parts);
  const got = await client.get('big');
  assert.ok(whole.equals(got.content));
  assert.deepEqual([headersOf(got).etag, headersOf(got)['x-oss-object-type'], headersOf(got)['x-oss-meta-a'], headersOf(got)['content-type']],
    [etagOfParts(parts), 'Multipart', '1', 'text/x-granary']);
  assert.equal(headersOf(got)['x-oss-hash-crc64ecma'], crc64(whole));
  assert.deepEqual((await client.listUploads({})).uploads, []);
  await refused(() => client.listParts('big', uploadId), 404, 'NoSuchUpload');
});

test('uploads that do not come together', 'AbortMultipartUpload CompleteMultipartUpload UploadPart', async world => {
  const client = await world.bucket();
  const { uploadId, done } = await uploaded(client, 'k', [world.random(PART), world.random(PART)]);
  const complete = (parts, options) => client.completeMultipartUpload('k', uploadId, parts, options);
  await refused(() => complete([{ number: 1, etag: etagOf('other') }]), 400, 'InvalidPart');
  await refused(() => complete([...done, { number: 3, etag: done[0].etag }]), 400, 'InvalidPart');
  await refused(() => complete(done, { headers: { 'x-oss-complete-all': 'yes' } }), 400, 'InvalidArgument', '0042-00000216');
  const small = await uploaded(client, 's', [Buffer.from('small'), Buffer.from('last')]);
  await refused(() => client.completeMultipartUpload('s', small.uploadId, small.done), 400, 'EntityTooSmall');
  const last = Buffer.from('1');
  await refused(() => client.uploadPart('k', '0'.repeat(32), 1, last, 0, 1), 404, 'NoSuchUpload', '0042-00000104');
  await refused(() => client.uploadPart('k', uploadId, 10_001, last, 0, 1), 400, 'InvalidArgument');
  assert.equal((await client.abortMultipartUpload('k', uploadId)).res.status, 204);
  await refused(() => client.abortMultipartUpload('k', uploadId), 404, 'NoSuchUpload', '0042-00000002');
  await refused(() => complete(done), 404, 'NoSuchUpload');
  await client.put('there', Buffer.from('x'));
  const forbidden = await uploaded(client, 'there', [Buffer.from('y')]);
  await refused(() => client.completeMultipartUpload('there', forbidden.uploadId, forbidden.done, { headers: { 'x-oss-forbid-overwrite': 'true' } }), 409, 'FileAlreadyExists');
});

test('uploads are listed in pages', 'ListMultipartUploads', async world => {
  const client = await world.bucket();
  const made = [];
  for (const key of ['a', 'a', 'b/1', 'c']) made.push({ key, id: (await client.initMultipartUpload(key)).uploadId });
  const seen = [];
  let query = {};
  for (;;) {
    const page = await client.listUploads({ 'max-uploads': 2, ...query });
    assert.ok(page.uploads.length <= 2);
    seen.push(...page.uploads.map(u => ({ key: u.name, id: u.uploadId })));
    if (!page.isTruncated) break;
    query = { 'key-marker': page.nextKeyMarker, 'upload-id-marker': page.nextUploadIdMarker };
  }
  assert.deepEqual(seen.map(u => u.key), ['a', 'a', 'b/1', 'c']);
  assert.deepEqual(seen.map(u => u.id).sort(), made.map(u => u.id).sort());
  assert.deepEqual((await client.listUploads({ prefix: 'b/' })).uploads.map(u => u.name), ['b/1']);
});

test('parts out of other objects', 'UploadPartCopy', async world => {
  const client = await world.bucket();
  await client.putBucketVersioning(client.getBucket(), 'Enabled');
  const [old, body] = [world.random(3 * PART), world.random(3 * PART)];
  const versionId = headersOf(await client.put('from & to', old))['x-oss-version-id'];
  await client.put('from & to', body);
  const source = { sourceKey: 'from & to', sourceBucketName: client.getBucket() };
  const { uploadId } = await client.initMultipartUpload('k');
  const parts = [
    await client.uploadPartCopy('k', uploadId, 1, `0-${PART - 1}`, source),
    await client.uploadPartCopy('k', uploadId, 2, `${PART}-${2 * PART - 1}`, source, { versionId }),
    await client.uploadPartCopy('k', uploadId, 3, `0-${9 * PART}`, source),
  ];
  await refused(() => client.uploadPartCopy('k', uploadId, 4, null, { ...source, sourceKey: 'none' }), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.uploadPartCopy('k', '0'.repeat(32), 4, null, source), 404, 'NoSuchUpload', '0042-00000311');
  const pieces = [body.subarray(0, PART), old.subarray(PART, 2 * PART), body];
  assert.deepEqual(parts.map(p => p.etag), pieces.map(etagOf));
  const done = await client.completeMultipartUpload('k', uploadId, parts.map((p, n) => ({ number: n + 1, etag: p.etag })));
  assert.equal(done.etag, etagOfParts(pieces));
  assert.ok(Buffer.concat(pieces).equals((await client.get('k')).content));
});

test('the client that cuts and copies by itself', 'InitiateMultipartUpload UploadPart UploadPartCopy CompleteMultipartUpload', async world => {
  const client = await world.bucket();
  const body = world.random(3 * PART + 5);
  const steps = [];
  const up = await client.multipartUpload('up', body, { partSize: PART, parallel: 3, progress: p => steps.push(p), meta: { a: '1' } });
  assert.match(up.etag, /^"[0-9A-F]{32}-4"$/);
  assert.equal(steps.at(-1), 1);
  const got = await client.get('up');
  assert.ok(body.equals(got.content));
  assert.equal(headersOf(got)['x-oss-meta-a'], '1');
  const copied = await client.multipartUploadCopy('copy', { sourceKey: 'up', sourceBucketName: client.getBucket(), startOffset: 5, endOffset: body.length }, { partSize: PART });
  assert.match(copied.etag, /^"[0-9A-F]{32}-3"$/);
  assert.ok(body.subarray(5).equals((await client.get('copy')).content));
});

// object-acl, symlink, object-tagging

test('the ACL of an object', 'PutObjectAcl GetObjectAcl', async world => {
  const client = await world.bucket();
  await client.put('k', Buffer.from('open?'));
  const url = client._objectUrl('k');
  assert.equal((await client.getACL('k')).acl, 'default');
  for (const acl of ['public-read', 'public-read-write', 'private', 'default']) {
    await client.putACL('k', acl);
    const got = await client.getACL('k');
    assert.equal(got.acl, acl);
    assert.ok(got.owner.id);
    assert.equal((await fetch(url)).status, acl.startsWith('public') ? 200 : 403, acl);
  }
  await client.put('made', Buffer.from('x'), { headers: { 'x-oss-object-acl': 'public-read' } });
  assert.equal((await client.getACL('made')).acl, 'public-read');
  await refused(() => client.putACL('none', 'private'), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.getACL('none'), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.putACL('k', 'everybody'), 400, 'InvalidArgument');
});

test('symbolic links', 'PutSymlink GetSymlink GetObject HeadObject', async world => {
  const client = await world.bucket();
  await client.put('dir/target ü', Buffer.from('content'));
  await client.putSymlink('link', 'dir/target ü', { meta: { a: '1' }, storageClass: 'Standard' });
  const link = await client.getSymlink('link');
  assert.equal(link.targetName, 'dir/target ü');
  assert.equal(headersOf(link)['x-oss-meta-a'], '1');
  const got = await client.get('link');
  assert.equal(String(got.content), 'content');
  assert.equal(headersOf(got)['x-oss-object-type'], 'Symlink');
  assert.equal(headersOf(got)['content-length'], '7');
  await client.putSymlink('dangling', 'nothing');
  await refused(() => client.get('dangling'), 404, 'SymlinkTargetNotExist');
  await client.putSymlink('twice', 'link');
  await refused(() => client.get('twice'), 400, 'InvalidTargetType');
  await refused(() => client.getSymlink('none'), 404, 'NoSuchKey', '0026-00000001');
  await refused(() => client.getSymlink('dir/target ü'), 400, 'NotSymlink');
});

test('the tags of an object', 'PutObjectTagging GetObjectTagging DeleteObjectTagging PutObject CopyObject', async world => {
  const client = await world.bucket();
  await client.put('k', Buffer.from('x'));
  assert.deepEqual((await client.getObjectTagging('k')).tag, {});
  await client.putObjectTagging('k', { 'a b': '1', 'c:d': 'e/f=g' });
  assert.deepEqual((await client.getObjectTagging('k')).tag, { 'a b': '1', 'c:d': 'e/f=g' });
  assert.equal(headersOf(await client.head('k'))['x-oss-tagging-count'], '2');
  await client.copy('copy', 'k');
  assert.deepEqual((await client.getObjectTagging('copy')).tag, { 'a b': '1', 'c:d': 'e/f=g' });
  assert.equal((await client.deleteObjectTagging('k')).status, 204);
  assert.deepEqual((await client.getObjectTagging('k')).tag, {});
  await client.put('t', Buffer.from('x'), { headers: { 'x-oss-tagging': 'k1=v1&k%202=v%2F2' } });
  assert.deepEqual((await client.getObjectTagging('t')).tag, { k1: 'v1', 'k 2': 'v/2' });
  await refused(() => client.put('t', Buffer.from('x'), { headers: { 'x-oss-tagging': Array.from({ length: 11 }, (_, n) => `k${n}=v`).join('&') } }), 400, 'InvalidArgument');
  await refused(() => client.getObjectTagging('none'), 404, 'NoSuchKey', '0026-00000001');
});
