/** Self-signed certificates for tests, made with openssl. Each call makes a new key. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { requireProgram } from './programs.js';

/** Both in PEM. */
export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

const KEY_OPTIONS = {
  ec: ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'],
  rsa: ['rsa:2048'],
} as const;

/** A certificate with this common name for 127.0.0.1 and localhost, valid for two days. */
export function makeCertificate(
  commonName: string,
  keyType: keyof typeof KEY_OPTIONS = 'ec',
): Certificate {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-tls-'));
  const [cert, key] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
  const args = [
    ...['req', '-x509', '-nodes', '-days', '2'],
    ...['-newkey', ...KEY_OPTIONS[keyType]],
    ...['-subj', `/CN=${commonName}`],
    ...['-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'],
    ...['-out', cert, '-keyout', key],
  ];
  try {
    execFileSync(requireProgram('openssl'), args, { stdio: 'ignore' });
    return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
