/**
 * The certificate and key of HTTPS: read at startup from TLS_CERT_FILE and TLS_KEY_FILE, and
 * checked before they are served. tls-reload.ts replaces them while the service runs.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { type Config, ConfigError } from '../../../config.js';

export type TlsFiles = NonNullable<Config['tls']>;

/** PEM texts. */
export interface TlsPair {
  readonly cert: Buffer;
  readonly key: Buffer;
}

/**
 * Mozilla's "intermediate" configuration (wiki.mozilla.org/Security/Server_Side_TLS, 5.7) without
 * its finite-field Diffie-Hellman.
 */
const PROTOCOL: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  honorCipherOrder: true,
  ciphers: [
    'TLS_AES_128_GCM_SHA256',
    'TLS_AES_256_GCM_SHA384',
    'TLS_CHACHA20_POLY1305_SHA256',
    'ECDHE-ECDSA-AES128-GCM-SHA256',
    'ECDHE-RSA-AES128-GCM-SHA256',
    'ECDHE-ECDSA-AES256-GCM-SHA384',
    'ECDHE-RSA-AES256-GCM-SHA384',
    'ECDHE-ECDSA-CHACHA20-POLY1305',
    'ECDHE-RSA-CHACHA20-POLY1305',
  ].join(':'),
};

/** Options for `https.createServer` and `setSecureContext`. */
export const secureContextOf = (pair: TlsPair): SecureContextOptions => ({ ...PROTOCOL, ...pair });

/**
 * Reads and checks the files at startup.
 * @throws ConfigError one line that names the variable
 */
export function readTlsPair({ certFile, keyFile }: TlsFiles): TlsPair {
  const pair = {
    cert: readVariable('TLS_CERT_FILE', certFile),
    key: readVariable('TLS_KEY_FILE', keyFile),
  };
  const reason = explainInvalidPair(pair);
  if (reason !== undefined) throw new ConfigError([reason]);
  return pair;
}

function readVariable(name: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new ConfigError([`${name} cannot be read: ${file} (${code})`]);
  }
}

/** Why the pair cannot be served; undefined when it can. The text reveals nothing of the files. */
export function explainInvalidPair(pair: TlsPair): string | undefined {
  const certificate = resultOf(() => new X509Certificate(pair.cert));
  if (!certificate) {
    return 'TLS_CERT_FILE must be a PEM certificate, followed by its chain';
  }
  const key = resultOf(() => createPrivateKey(pair.key));
  if (!key) return 'TLS_KEY_FILE must be a PEM private key without a passphrase';
  // createSecureContext compares keys only when they are of the same type.
  if (!certificate.checkPrivateKey(key)) {
    return 'TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE';
  }
  const context = resultOf(() => createSecureContext(secureContextOf(pair)));
  return context ? undefined : 'TLS_CERT_FILE has a chain that is not PEM';
}

function resultOf<T>(create: () => T): T | undefined {
  try {
    return create();
  } catch {
    return undefined;
  }
}
