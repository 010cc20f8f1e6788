// Sigstore's verifier for JavaScript accepts our bundles with the log's proof, and refuses what was changed. Arguments:
// the directory that the example interop_sigstore wrote, and the one that holds node_modules.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');

const [made, modules] = process.argv.slice(2).map((dir) => path.resolve(dir));
const use = (name) => require(path.join(modules, 'node_modules', name));
const { bundleFromJSON } = use('@sigstore/bundle');
const { TrustedRoot } = use('@sigstore/protobuf-specs');
const { Verifier, toSignedEntity, toTrustMaterial } = use('@sigstore/verify');

// What a verifier brings: the log's key, from its C2SP spelling, as Sigstore wants it.
function trustedRoot(vkey) {
  const [, name, id, typed] = vkey.match(/^([^+]+)\+([0-9a-f]{8})\+(\S+)\n$/);
  const key = Buffer.from(typed, 'base64'); // 0x01 for Ed25519, then its 32 bytes
  const logId = crypto.createHash('sha256').update(`${name}\n`).update(key).digest();
  if (key[0] !== 1 || logId.toString('hex', 0, 4) !== id) throw new Error(`not a log's key: ${vkey}`);
  const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key.subarray(1)]);
  const keyId = { keyId: logId.toString('base64') };
  return TrustedRoot.fromJSON({
    mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
    tlogs: [{
      baseUrl: `https://${name}`,
      hashAlgorithm: 'SHA2_256',
      publicKey: { rawBytes: spki.toString('base64'), keyDetails: 'PKIX_ED25519', validFor: { start: '2025-01-01T00:00:00Z' } },
      logId: keyId,
      checkpointKeyId: keyId,
    }],
  });
}

const read = (file) => fs.readFileSync(path.join(made, file), 'utf8');
const flip = (base64, at) => {
  const bytes = Buffer.from(base64, 'base64');
  bytes[at] ^= 1;
  return bytes.toString('base64');
};

let failed = 0;
// `want` is the code of the refusal, null where the bundle must be accepted.
function test(name, want, { source = 'logged', change = () => {}, key = 'key.pem', log = 'log.vkey', logged = 1 } = {}) {
  const json = JSON.parse(read(`${source}/step-00000020/model.sig`));
  const entry = json.verificationMaterial.tlogEntries[0];
  change(json, entry, entry?.inclusionProof);
  let got = null;
  try {
    const publicKey = crypto.createPublicKey(read(key));
    const material = toTrustMaterial(trustedRoot(read(log)), () => ({ publicKey, validFor: () => true }));
    const verifier = new Verifier(material, { timestampThreshold: 0, tlogThreshold: logged, ctlogThreshold: 0 });
    verifier.verify(toSignedEntity(bundleFromJSON(json)));
  } catch (error) {
    got = error.code ?? `${error.name}: ${error.message}`;
  }
  failed += got === want ? 0 : 1;
  console.log(got === want ? `ok ${name}, sigstore-js` : `not ok ${name}, sigstore-js: want ${want ?? 'acceptance'}, got ${got}`);
}

const PROOF = 'TLOG_INCLUSION_PROOF_ERROR';
const BODY = 'TLOG_BODY_ERROR';

test('a logged checkpoint', null);
test('a checkpoint that is alone in its log', null, { source: 'first' });
test('a checkpoint that is not logged, where no log is asked for', null, { source: 'signed', logged: 0 });
test('a checkpoint that is not logged', 'TLOG_ERROR', { source: 'signed' });

test('wrong key', 'SIGNATURE_ERROR', { key: 'other.pem' });
test('tampered payload', BODY, { change: (b) => { b.dsseEnvelope.payload = flip(b.dsseEnvelope.payload, 30); } });
test('tampered payload, not logged', 'SIGNATURE_ERROR', {
  source: 'signed', logged: 0, change: (b) => { b.dsseEnvelope.payload = flip(b.dsseEnvelope.payload, 30); },
});
test('tampered payload type', BODY, { change: (b) => { b.dsseEnvelope.payloadType = 'text/plain'; } });
test('tampered signature', BODY, {
  change: (b) => { b.dsseEnvelope.signatures[0].sig = flip(b.dsseEnvelope.signatures[0].sig, 20); },
});

const hashes = JSON.parse(read('logged/step-00000020/model.sig')).verificationMaterial.tlogEntries[0].inclusionProof.hashes;
for (const at of hashes.keys()) {
  test(`tampered proof, hash ${at}`, PROOF, { change: (b, e, p) => { p.hashes[at] = flip(p.hashes[at], at); } });
}
test('a proof with a hash less', PROOF, { change: (b, e, p) => { p.hashes.pop(); } });
test('a proof with a hash more', PROOF, { change: (b, e, p) => { p.hashes.push(p.hashes[0]); } });
test('a proof of another index', PROOF, { change: (b, e, p) => { p.logIndex = '270'; } });
test('tampered entry', PROOF, { change: (b, e) => { e.canonicalizedBody = flip(e.canonicalizedBody, 200); } });

const note = (edit) => ({ change: (b, e, p) => { p.checkpoint.envelope = edit(p.checkpoint.envelope); } });
test('tampered checkpoint, size', PROOF, note((text) => text.replace('\n300\n', '\n301\n')));
test('tampered checkpoint, root', PROOF, note((text) => {
  const lines = text.split('\n');
  lines[2] = flip(lines[2], 0);
  return lines.join('\n');
}));
test('tampered checkpoint, signature', PROOF, note((text) => {
  const lines = text.split('\n'); // the log's signature is the first after the empty line
  const [dash, name, signature] = lines[4].split(' ');
  lines[4] = [dash, name, flip(signature, 40)].join(' ');
  return lines.join('\n');
}));
test("tampered checkpoint, a witness's signature alone", PROOF, note((text) => {
  const lines = text.split('\n');
  lines.splice(4, 1);
  return lines.join('\n');
}));
test('tampered checkpoint, no signature', PROOF, note((text) => text.slice(0, text.indexOf('\n\n') + 2)));
test('other log key', PROOF, { log: 'other.vkey' });
test("other log key, under the log's id", PROOF, {
  log: 'other.vkey',
  change: (b, e) => { e.logId.keyId = trustedRoot(read('other.vkey')).tlogs[0].logId.keyId.toString('base64'); },
});
process.exit(failed ? 1 : 0);
