// Runs cases one after the other and prints one JSON line for each, in the form that tests/sdk/clients/program.py reads.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');

const cases = [];

// `operations` are what the case asks of the server, in the API's spelling.
function test(name, operations, run) {
  cases.push({ name, operations: operations.split(' '), run });
}

async function runAll(worlds) {
  for (const world of worlds) {
    for (const { name, operations, run } of cases) {
      const line = { case: `${world.name}: ${name}`, operations, ok: true, message: '' };
      try {
        await run(world);
      } catch (error) {
        line.ok = false;
        line.message = described(error);
      }
      await world.clean();
      process.stdout.write(`${JSON.stringify(line)}\n`);
    }
  }
  process.stdout.write(`${JSON.stringify({ cases: cases.length * worlds.length })}\n`);
}

function described(error) {
  const where = String(error.stack || '').split('\n').find(l => l.includes('cases.js')) || '';
  const service = error.code ? ` [${error.status} ${error.code} ${error.ecCode || ''}]` : '';
  return `${error.name}: ${error.message}${service} ${where.trim()}`.slice(0, 1500);
}

// The call fails with this answer of the service, whole and well-formed.
async function refused(call, status, code, ec) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, `expected ${status} ${code}, but it went well`);
  if (!error.status) throw error;
  assert.deepEqual([error.status, error.code], [status, code], error.message);
  assert.match(error.requestId || '', /^[0-9A-F]{24}$/);
  if (ec) assert.equal(error.ecCode, ec);
  return error;
}

const md5 = body => crypto.createHash('md5').update(body).digest();
const etagOf = body => `"${md5(body).toString('hex').toUpperCase()}"`;
const md5Of = body => md5(body).toString('base64');

// The ETag of an object of parts: the MD5 of their ETags in a row, and how many.
function etagOfParts(parts) {
  const row = parts.map(body => md5(body).toString('hex').toUpperCase()).join('');
  return `"${md5(row).toString('hex').toUpperCase()}-${parts.length}"`;
}

const table = [];
for (let n = 0n; n < 256n; n++) {
  let crc = n;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ 0xC96C5795D7870F42n : crc >> 1n;
  table.push([Number(crc >> 32n), Number(crc & 0xFFFFFFFFn)]);
}

// CRC-64 of ECMA-182, reflected, as the decimal text of x-oss-hash-crc64ecma.
function crc64(body) {
  let high = 0xFFFFFFFF;
  let low = 0xFFFFFFFF;
  for (const byte of body) {
    const [h, l] = table[(low ^ byte) & 0xFF];
    low = ((low >>> 8) | (high << 24)) ^ l;
    high = (high >>> 8) ^ h;
  }
  return (((BigInt(~high >>> 0)) << 32n) | BigInt(~low >>> 0)).toString();
}

module.exports = { test, runAll, refused, etagOf, md5Of, etagOfParts, crc64 };
