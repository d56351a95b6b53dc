// What a page of another site asks of the server: through the browser build of ali-oss, through fetch and with forms.
// The page's own server, run.py, makes buckets with CORS rules, signs policies as an application would, and takes the results.
'use strict';

const cases = [];
const test = (name, operations, run) => cases.push({ name, operations: operations.split(' '), run });

async function ask(what, content = {}) {
  const answer = await fetch(`/${what}`, { method: 'POST', body: JSON.stringify(content) });
  if (!answer.ok) throw new Error(`${what}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

function check(holds, sentence) {
  if (!holds) throw new Error(sentence);
}

function equal(got, want) {
  const [one, other] = [JSON.stringify(got), JSON.stringify(want)];
  check(one === other, `got ${one}, expected ${other}`);
}

async function refused(call, code, status) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  check(error, `expected ${code}, but it went well`);
  check(error.code === code, `expected ${code}, but: ${error.code} ${error.message}`);
  if (status) equal(error.status, status);
  return error;
}

// What the browser does not let through has no status and no answer.
async function blocked(call) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  check(error, 'the browser let it through');
  check(error instanceof TypeError || error.status === -1 || error.name === 'RequestError', `not blocked, but: ${error.status} ${error.name} ${error.message}`);
}

const ALL = [{ origins: ['ORIGIN'], methods: ['GET', 'PUT', 'POST', 'DELETE', 'HEAD'], headers: ['*'], expose: ['ETag', 'x-oss-request-id', 'x-oss-meta-a'], age: 60 }];
const PART = 100 * 1024;

function random(size) {
  const body = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(body.subarray(at, Math.min(size, at + 65536)));
  return body;
}

const text = content => new TextDecoder().decode(content);
const same = (got, want) => check(got.length === want.length && got.every((byte, n) => byte === want[n]), `${got.length} bytes came that are not the ${want.length} expected`);

// One version of the signature.
function world(settings, name, authorizationV4) {
  return {
    name,
    settings,
    client: (bucket, more) => new OSS({
      endpoint: settings.endpoint, region: settings.region, accessKeyId: settings.keyId, accessKeySecret: settings.secret, bucket, authorizationV4, retryMax: 0, ...more,
    }),
    async bucket(rules = ALL, acl = 'private') {
      const { bucket } = await ask('bucket', { rules, acl });
      return this.client(bucket);
    },
    url: (client, key) => `${settings.endpoint.replace('://', `://${client.getBucket()}.`)}/${key}`,
    sign: (client, key, method = 'GET') => (authorizationV4 ? client.signatureUrlV4(method, 60, {}, key) : client.signatureUrl(key, { method, expires: 60 })),
  };
}

test('a blob there and back', 'PutObject GetObject HeadObject DeleteObject OptionObject', async w => {
  const client = await w.bucket();
  const body = random(300_000);
  const put = await client.put('dir/ü & k', new Blob([body], { type: 'text/x-granary' }), { meta: { a: '1' } });
  check(/^"[0-9A-F]{32}"$/.test(put.res.headers.etag), `etag ${put.res.headers.etag}`);
  check(/^[0-9A-F]{24}$/.test(put.res.headers['x-oss-request-id']), 'the request id is not shown');
  equal(put.res.headers['x-oss-hash-crc64ecma'], undefined);
  const got = await client.get('dir/ü & k');
  same(new Uint8Array(got.content), body);
  equal([got.res.headers['content-type'], got.res.headers['x-oss-meta-a']], ['text/x-granary', '1']);
  const head = await client.head('dir/ü & k');
  equal([head.res.headers['content-length'], head.meta], ['300000', { a: '1' }]);
  await client.delete('dir/ü & k');
  const error = await refused(() => client.get('dir/ü & k'), 'NoSuchKey', 404);
  check(/^[0-9A-F]{24}$/.test(error.requestId), 'the error cannot be read');
});

test('bytes and files', 'PutObject GetObject', async w => {
  const client = await w.bucket();
  const body = random(70_001);
  await client.put('bytes', OSS.Buffer.from(body));
  await client.put('file', new File([body], 'name.json'));
  for (const key of ['bytes', 'file']) same(new Uint8Array((await client.get(key)).content), body);
  equal((await client.get('file')).res.headers['content-type'], 'application/json');
});

test('what the rules do not allow is blocked', 'OptionObject PutObject GetObject', async w => {
  const none = await w.bucket([]);
  const elsewhere = await w.bucket([{ ...ALL[0], origins: ['http://elsewhere.example'] }]);
  const reading = await w.bucket([{ ...ALL[0], methods: ['GET', 'HEAD'] }]);
  const plain = await w.bucket([{ ...ALL[0], headers: ['x-oss-date'] }]);
  for (const client of [none, elsewhere, reading, plain]) await blocked(() => client.put('k', OSS.Buffer.from('x')));
  await refused(() => reading.get('k'), 'NoSuchKey', 404);
  for (const client of [none, elsewhere, reading, plain]) equal(await ask('keys', { bucket: client.getBucket() }), []);
});

test('the first rule that fits is taken', 'OptionObject GetObject', async w => {
  const client = await w.bucket([{ ...ALL[0], origins: ['http://elsewhere.example'], expose: [] }, { ...ALL[0], expose: ['x-oss-object-type'] }, { ...ALL[0], origins: ['*'], expose: [] }]);
  await client.put('k', OSS.Buffer.from('x'));
  const answer = await fetch(await w.sign(client, 'k'));
  equal([answer.headers.get('x-oss-object-type'), answer.headers.get('etag'), await answer.text()], ['Normal', null, 'x']);
});

test('any origin, and none', 'GetObject OptionObject', async w => {
  const client = await w.bucket([{ origins: ['*'], methods: ['GET', 'PUT'], headers: ['*'], expose: ['ETag'], age: 1 }], 'public-read');
  await client.put('k', OSS.Buffer.from('open'));
  const answer = await fetch(w.url(client, 'k'));
  equal([answer.status, await answer.text()], [200, 'open']);
  check(answer.headers.get('etag'), 'the ETag is not shown');
  const closed = await w.bucket([], 'public-read');
  await ask('put', { bucket: closed.getBucket(), key: 'k', content: 'closed' });
  await blocked(() => fetch(w.url(closed, 'k')));
  const opaque = await fetch(w.url(closed, 'k'), { mode: 'no-cors' });
  equal(opaque.type, 'opaque');
});

test('errors can be read', 'GetObject PutObject', async w => {
  const client = await w.bucket();
  const liar = w.client(client.getBucket(), { accessKeySecret: 'wrong' });
  await refused(() => liar.put('k', OSS.Buffer.from('x')), 'SignatureDoesNotMatch', 403);
  const stranger = w.client(client.getBucket(), { accessKeyId: 'nobody' });
  const error = await refused(() => stranger.get('k'), 'InvalidAccessKeyId', 403);
  equal(error.message, 'The OSS Access Key Id you provided does not exist in our records.');
});

test('ranges and conditions', 'GetObject', async w => {
  const client = await w.bucket();
  const body = random(1000);
  const { etag } = (await client.put('k', new Blob([body]))).res.headers;
  const part = await client.get('k', { headers: { Range: 'bytes=10-19' } });
  equal(part.res.status, 206);
  same(new Uint8Array(part.content), body.subarray(10, 20));
  await refused(() => client.get('k', { headers: { 'If-Match': '"0"' } }), 'PreconditionFailed', 412);
  same(new Uint8Array((await client.get('k', { headers: { 'If-Match': etag } })).content), body);
});

test('listing, copies and deletions', 'ListObjects CopyObject DeleteMultipleObjects', async w => {
  const client = await w.bucket();
  for (const key of ['a', 'b/1', 'b/2', 'c & d']) await client.put(key, OSS.Buffer.from(key));
  const page = await client.list({ 'max-keys': 2 });
  equal([page.objects.map(o => o.name), page.isTruncated, page.nextMarker], [['a', 'b/1'], true, 'b/1']);
  const folders = await client.list({ delimiter: '/' });
  equal([folders.objects.map(o => o.name), folders.prefixes], [['a', 'c & d'], ['b/']]);
  await client.copy('copy', 'c & d', { meta: { a: '2' } });
  const copied = await client.get('copy');
  equal([text(copied.content), copied.res.headers['x-oss-meta-a']], ['c & d', '2']);
  const { deleted } = await client.deleteMulti(['a', 'b/1', 'b/2', 'c & d', 'copy']);
  equal(deleted.length, 5);
  equal((await client.list({})).objects, []);
});

test('the newer listing', 'ListObjectsV2', async w => {
  const client = await w.bucket();
  for (const key of ['a', 'b', 'c']) await client.put(key, OSS.Buffer.from(key));
  const first = await client.listV2({ 'max-keys': '2' });
  equal([first.objects.map(o => o.name), first.isTruncated], [['a', 'b'], true]);
  const second = await client.listV2({ 'continuation-token': first.nextContinuationToken });
  equal(second.objects.map(o => o.name), ['c']);
});

test('settings of an object', 'PutObjectAcl GetObjectAcl PutObjectTagging GetObjectTagging DeleteObjectTagging PutSymlink GetSymlink GetObjectMeta', async w => {
  const client = await w.bucket([{ ...ALL[0], expose: ['ETag', 'x-oss-symlink-target'] }]);
  await client.put('k', OSS.Buffer.from('x'));
  await client.putACL('k', 'public-read');
  equal((await client.getACL('k')).acl, 'public-read');
  equal(await (await fetch(w.url(client, 'k'))).text(), 'x');
  await client.putObjectTagging('k', { one: '1', two: '2' });
  equal((await client.getObjectTagging('k')).tag, { one: '1', two: '2' });
  await client.deleteObjectTagging('k');
  equal((await client.getObjectTagging('k')).tag, {});
  await client.putSymlink('link', 'k');
  equal((await client.getSymlink('link')).targetName, 'k');
  equal(text((await client.get('link')).content), 'x');
  equal((await client.getObjectMeta('k')).res.headers['content-length'], '1');
});

test('settings of a bucket', 'PutBucketAcl GetBucketAcl PutBucketCors GetBucketCors DeleteBucketCors PutBucketVersioning GetBucketVersioning ListObjectVersions', async w => {
  const client = await w.bucket();
  const name = client.getBucket();
  await client.putBucketACL(name, 'public-read');
  equal((await client.getBucketACL(name)).acl, 'public-read');
  equal((await client.getBucketVersioning(name)).versionStatus, undefined);
  await client.put('k', OSS.Buffer.from('x'));
  equal((await client.getBucketVersions({ prefix: 'k' })).objects.map(o => o.versionId), ['null']);
  equal((await client.getBucketCORS(name)).rules[0].maxAgeSeconds, '60');
  await client.putBucketCORS(name, [{ allowedOrigin: location.origin, allowedMethod: ['GET', 'DELETE'], allowedHeader: '*', exposeHeader: 'ETag', maxAgeSeconds: '0' }]);
  equal((await client.getBucketCORS(name)).rules[0].allowedMethod, ['GET', 'DELETE']);
  await client.deleteBucketCORS(name);
  await blocked(() => client.get('k'));
});

test('versions are kept', 'PutBucketVersioning GetObject', async w => {
  const client = await w.bucket([{ ...ALL[0], expose: ['ETag', 'x-oss-version-id'] }]);
  await client.putBucketVersioning(client.getBucket(), 'Enabled');
  const versionId = (await client.put('k', OSS.Buffer.from('old'))).res.headers['x-oss-version-id'];
  await client.put('k', OSS.Buffer.from('new'));
  equal(text((await client.get('k', { versionId })).content), 'old');
});

test('an upload in parts', 'InitiateMultipartUpload UploadPart ListParts ListMultipartUploads CompleteMultipartUpload AbortMultipartUpload', async w => {
  const client = await w.bucket();
  const body = random(3 * PART + 5);
  const steps = [];
  const done = await client.multipartUpload('big', new File([body], 'big.bin'), { partSize: PART, parallel: 2, progress: p => steps.push(p) });
  check(/^"[0-9A-F]{32}-4"$/.test(done.etag), done.etag);
  equal(steps.at(-1), 1);
  same(new Uint8Array((await client.get('big')).content), body);
  const { uploadId } = await client.initMultipartUpload('k');
  const part = await client.uploadPart('k', uploadId, 1, new File([body], 'x'), 0, PART);
  equal((await client.listUploads({ 'max-uploads': 10 })).uploads.uploadId || (await client.listUploads({ 'max-uploads': 10 })).uploads[0].uploadId, uploadId);
  const { parts } = await client.listParts('k', uploadId);
  equal([].concat(parts)[0].ETag, part.etag);
  await client.abortMultipartUpload('k', uploadId);
  await refused(() => client.listParts('k', uploadId), 'NoSuchUpload', 404);
});

test('an upload in parts that was broken off is taken up again', 'UploadPart CompleteMultipartUpload', async w => {
  const client = await w.bucket();
  const body = random(4 * PART);
  const file = new File([body], 'big.bin');
  let checkpoint;
  try {
    await client.multipartUpload('big', file, {
      partSize: PART, parallel: 1, progress: async (p, reached) => {
        checkpoint = reached || checkpoint;
        if (p >= 0.4) client.cancel();
      },
    });
    check(false, 'it was not broken off');
  } catch (error) {
    check(error.name === 'cancel', `${error.name} ${error.message}`);
  }
  check(checkpoint.doneParts.length >= 1 && checkpoint.doneParts.length < 4, `${checkpoint.doneParts.length} parts`);
  await client.multipartUpload('big', file, { checkpoint });
  same(new Uint8Array((await client.get('big')).content), body);
});

test('without the ETag exposed an upload in parts says so', 'UploadPart', async w => {
  const client = await w.bucket([{ ...ALL[0], expose: [] }]);
  try {
    await client.multipartUpload('big', new File([random(2 * PART)], 'x'), { partSize: PART });
  } catch (error) {
    check(/expose-headers/.test(error.message), error.message);
    return;
  }
  check(false, 'it went well');
});

test('parts out of another object', 'UploadPartCopy CompleteMultipartUpload', async w => {
  const client = await w.bucket();
  const body = random(2 * PART + 1);
  await client.put('from', new Blob([body]));
  await client.multipartUploadCopy('to', { sourceKey: 'from', sourceBucketName: client.getBucket() }, { partSize: PART });
  same(new Uint8Array((await client.get('to')).content), body);
});

test('an address that is signed', 'GetObject PutObject', async w => {
  const client = await w.bucket();
  await client.put('dir/k', OSS.Buffer.from('signed'));
  equal(await (await fetch(await w.sign(client, 'dir/k'))).text(), 'signed');
  const put = await fetch(await w.sign(client, 'dir/k', 'PUT'), { method: 'PUT', body: new Blob(['put']) });
  equal(put.status, 200);
  const image = new Image();
  const pixel = Uint8Array.from(atob('R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs='), c => c.charCodeAt(0));
  await client.put('pixel.gif', new Blob([pixel], { type: 'image/gif' }));
  image.crossOrigin = 'anonymous';
  image.src = await w.sign(client, 'pixel.gif');
  await image.decode();
  equal([image.naturalWidth, image.naturalHeight], [1, 1]);
});

test('appending', 'AppendObject GetObject', async w => {
  const client = await w.bucket([{ ...ALL[0], expose: ['ETag', 'x-oss-next-append-position'] }]);
  const first = await client.append('log', OSS.Buffer.from('one'));
  equal(first.nextAppendPosition, '3');
  await client.append('log', OSS.Buffer.from('two'), { position: 3 });
  equal(text((await client.get('log')).content), 'onetwo');
});

// The fields of a form, signed by the application's own server.
async function fields(w, client, more, conditions) {
  return { ...more, ...await ask('policy', { version: w.name, bucket: client.getBucket(), conditions }) };
}

test('a form that a script posts', 'PostObject GetObject OptionObject', async w => {
  const client = await w.bucket();
  const body = random(150_000);
  const data = new FormData();
  const signed = await fields(w, client, { key: 'forms/${filename}', success_action_status: '201', 'x-oss-meta-a': '1' }, [['starts-with', '$key', 'forms/'], ['content-length-range', 1, 1_000_000]]);
  for (const [name, value] of Object.entries(signed)) data.append(name, value);
  data.append('file', new File([body], 'ü b.bin', { type: 'text/x-part' }));
  const answer = await fetch(w.url(client, ''), { method: 'POST', body: data });
  const said = await answer.text();
  equal(answer.status, 201);
  check(said.includes(`<Bucket>${client.getBucket()}</Bucket>`) && said.includes('<Key>forms/'), said);
  check(answer.headers.get('etag'), 'the ETag is not shown');
  const got = await client.get('forms/ü b.bin');
  same(new Uint8Array(got.content), body);
  equal([got.res.headers['x-oss-meta-a'], got.res.headers['content-type']], ['1', 'text/x-part']);
  data.set('key', 'elsewhere');
  const other = await fetch(w.url(client, ''), { method: 'POST', body: data });
  equal([other.status, /<Code>AccessDenied<\/Code>/.test(await other.text())], [403, true]);
});

test('a form that a person sends', 'PostObject GetObject', async w => {
  const client = await w.bucket();
  const frame = document.createElement('iframe');
  frame.name = `frame-${w.name}`;
  const form = document.createElement('form');
  Object.assign(form, { method: 'POST', enctype: 'multipart/form-data', action: w.url(client, ''), target: frame.name });
  const signed = await fields(w, client, { key: 'sent/k', success_action_redirect: `${location.origin}/done` }, [['eq', '$key', 'sent/k']]);
  for (const [name, value] of Object.entries(signed)) form.append(Object.assign(document.createElement('input'), { type: 'hidden', name, value }));
  const file = Object.assign(document.createElement('input'), { type: 'file', name: 'file' });
  const chosen = new DataTransfer();
  chosen.items.add(new File(['sent'], 'sent.txt', { type: 'text/plain' }));
  file.files = chosen.files;
  form.append(file);
  document.body.append(frame, form);
  const loaded = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('NotImplemented or no answer to the form in 20 s')), 20_000);
    frame.addEventListener('load', () => {
      try {
        if (frame.contentWindow.location.pathname === '/done') resolve(new URL(frame.contentWindow.location.href));
      } catch {
        reject(new Error('the form led to a page of the server: NotImplemented or another refusal'));
      }
    });
  });
  form.submit();
  const end = await loaded;
  equal([end.searchParams.get('bucket'), end.searchParams.get('key')], [client.getBucket(), 'sent/k']);
  equal(text((await client.get('sent/k')).content), 'sent');
});

test('a callback after an upload', 'Callback PutObject', async w => {
  const client = await w.bucket();
  const put = await client.put('k', OSS.Buffer.from('12345'), { callback: { url: `${w.settings.callback}/ok`, body: 'object=${object}&size=${size}', contentType: 'application/x-www-form-urlencoded' } });
  equal(put.data.form, { object: 'k', size: '5' });
});

window.addEventListener('load', async () => {
  const settings = await ask('settings');
  const worlds = [world(settings, 'v1', false), world(settings, 'v4', true)];
  for (const w of worlds) {
    for (const { name, operations, run } of cases) {
      const line = { case: `${w.name}: ${name}`, operations, ok: true, message: '' };
      try {
        await run(w);
      } catch (error) {
        line.ok = false;
        const where = String(error.stack || '').split('\n').filter(l => l.includes('cases.js')).map(l => l.replace(/.*cases\.js:(\d+).*/, '$1'));
        line.message = `${error.name}: ${error.message} ${error.status || ''} ${error.code || ''} at line ${where.slice(0, 4).join(' < ')}`;
      }
      await ask('line', line);
    }
  }
  await ask('line', { cases: worlds.length * cases.length });
});
