/** Self-signed certificates for tests, made by openssl: each call gives another key. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { programOf } from './programs.js';

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

const KEYS = { ec: ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'], rsa: ['rsa:2048'] } as const;

/** A certificate of this common name for 127.0.0.1 and localhost, as PEM texts. */
export function makeCertificate(name: string, kind: keyof typeof KEYS = 'ec'): Certificate {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-tls-'));
  const [cert, key] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
  try {
    const names = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost'];
    const options = ['req', '-x509', '-newkey', ...KEYS[kind], '-nodes', '-days', '2', ...names];
    execFileSync(programOf('openssl'), [...options, '-out', cert, '-keyout', key], {
      stdio: 'ignore',
    });
    return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
