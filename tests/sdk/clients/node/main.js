// ali-oss against the server that the environment names; see tests/sdk/clients/program.py.
'use strict';

const dns = require('node:dns');
const crypto = require('node:crypto');
const OSS = require('ali-oss');
const { runAll } = require('./walk');
require('./cases');

const env = process.env;
const server = new URL(env.GRANARY_ENDPOINT);

// The test domain and the buckets in it are names of that server, as a wildcard record would say.
const resolve = dns.lookup;
dns.lookup = (host, options, done) => resolve(host === env.GRANARY_DOMAIN || host.endsWith(`.${env.GRANARY_DOMAIN}`) ? server.hostname : host, options, done);

let buckets = 0;
const made = [];

// One signature and one way to name buckets. `more` goes to the client's constructor.
function world(name, options) {
  const settings = {
    accessKeyId: env.GRANARY_KEY_ID, accessKeySecret: env.GRANARY_KEY_SECRET, region: env.GRANARY_REGION, retryMax: 0, timeout: 60000, ...options,
  };
  const self = {
    name,
    prefix: `${env.GRANARY_RUN}-${name}`,
    region: env.GRANARY_REGION,
    callback: env.GRANARY_CALLBACK,
    endpoint: settings.endpoint,
    v4: !!settings.authorizationV4,
    byName: !settings.sldEnable,
    credentials: { id: settings.accessKeyId, secret: settings.accessKeySecret },
    client: more => new OSS({ ...settings, ...more }),
    name_: suffix => `${self.prefix}-${suffix}-${++buckets}`,
    // A client of a bucket that was just made.
    async bucket(options = {}) {
      const bucket = self.name_('b');
      await self.client().putBucket(bucket, options);
      made.push(bucket);
      return self.client({ bucket });
    },
    // Removes the buckets of a case and what is in them: an account may have a hundred.
    async clean() {
      for (const bucket of made.splice(0)) await empty(self.client({ bucket }));
    },
    // The URL that a form of this bucket is posted to.
    formUrl: bucket => (self.byName ? `http://${bucket}.${env.GRANARY_DOMAIN}:${server.port}/` : `${server.origin}/${bucket}/`),
    random: size => crypto.randomBytes(size),
  };
  return self;
}

async function empty(client) {
  try {
    for (;;) {
      const { objects, deleteMarker } = await client.getBucketVersions({ maxKeys: 1000, 'encoding-type': 'url' });
      const all = [...objects, ...deleteMarker].map(o => ({ key: decodeURIComponent(o.name), versionId: o.versionId }));
      if (all.length === 0) break;
      await client.deleteMulti(all, { quiet: true });
    }
    for (const { name, uploadId } of (await client.listUploads({ 'max-uploads': 1000 })).uploads) await client.abortMultipartUpload(name, uploadId);
    await client.deleteBucket(client.getBucket());
  } catch (error) {
    if (error.code !== 'NoSuchBucket') throw error;
  }
}

const byName = `http://${env.GRANARY_DOMAIN}:${server.port}`;
runAll([
  world('v1', { endpoint: byName }),
  world('v4', { endpoint: byName, authorizationV4: true }),
  world('v4-path', { endpoint: server.origin, authorizationV4: true, sldEnable: true }),
]).catch(error => {
  console.error(error);
  process.exitCode = 1;
});
