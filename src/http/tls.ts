/**
 * HTTPS by a pair of PEM files that may be replaced at any time, in place or by a symbolic link (as Kubernetes does): new
 * connections get the new pair, those that stand go on. What is no whole pair is never served: at the start it is an error of
 * one line, later the pair in force stays. Contents are compared, not times: no way of replacing a file is missed.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type SecureContextOptions, type Server } from 'node:tls';
import type { LoggerService } from '@nestjs/common';
import { type Config, ConfigError } from '../config.js';

type Files = NonNullable<Config['tls']>;

export interface TlsPair {
  readonly cert: Buffer;
  readonly key: Buffer;
}

const LOOK_EVERY_MS = 1_000;

/** Mozilla's "intermediate" (wiki.mozilla.org/Security/Server_Side_TLS, 5.7) without its finite-field Diffie-Hellman. */
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

/** What `https.createServer` and `setSecureContext` take. */
export const secureContextOf = (pair: TlsPair): SecureContextOptions => ({ ...PROTOCOL, ...pair });

/** The files at the start. @throws ConfigError of one line that names the variable at fault */
export function readTlsPair({ certFile, keyFile }: Files): TlsPair {
  const read = (name: string, file: string): Buffer => {
    try {
      return readFileSync(file);
    } catch (error) {
      throw new ConfigError([
        `${name} cannot be read: ${file} (${(error as NodeJS.ErrnoException).code})`,
      ]);
    }
  };
  const pair = { cert: read('TLS_CERT_FILE', certFile), key: read('TLS_KEY_FILE', keyFile) };
  const fault = faultOf(pair);
  if (fault) throw new ConfigError([fault]);
  return pair;
}

/** Why this pair cannot be served, without a word of its contents; undefined when it can. */
function faultOf(pair: TlsPair): string | undefined {
  const attempt = <T>(make: () => T): T | undefined => {
    try {
      return make();
    } catch {
      return undefined;
    }
  };
  const certificate = attempt(() => new X509Certificate(pair.cert));
  if (!certificate) return 'TLS_CERT_FILE must be a PEM certificate, with its chain behind it';
  const key: KeyObject | undefined = attempt(() => createPrivateKey(pair.key));
  if (!key) return 'TLS_KEY_FILE must be a PEM private key without a passphrase';
  // OpenSSL itself compares only keys of one type.
  if (!certificate.checkPrivateKey(key))
    return 'TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE';
  if (!attempt(() => createSecureContext(secureContextOf(pair))))
    return 'TLS_CERT_FILE has a chain that is not PEM';
  return undefined;
}

function validity({ cert }: TlsPair): string {
  const { validTo } = new X509Certificate(cert);
  return `it is valid until ${validTo}${Date.parse(validTo) < Date.now() ? ', which is past' : ''}`;
}

/** Follows the files until the server closes. A fault is told once, and only when it is still there at the next look. */
export function followTlsPair(
  server: Server,
  files: Files,
  first: TlsPair,
  logger: LoggerService,
): void {
  let inForce = first;
  let seen: string | undefined;
  let logged: string | undefined;

  const look = async (): Promise<void> => {
    const found = await Promise.all([readFile(files.certFile), readFile(files.keyFile)]).then(
      ([cert, key]) => ({ cert, key }),
      (error: NodeJS.ErrnoException) => `the files cannot be read (${error.code})`,
    );
    const same =
      typeof found !== 'string' && found.cert.equals(inForce.cert) && found.key.equals(inForce.key);
    const fault = typeof found === 'string' ? found : same ? undefined : faultOf(found);
    // A look between the writing of the two files finds no pair: that is no fault yet.
    if (fault !== undefined && fault === seen && fault !== logged) {
      logger.error(
        `The TLS certificate is not replaced, the one in force stays: ${fault}`,
        undefined,
        'Tls',
      );
      logged = fault;
    }
    seen = fault;
    if (typeof found === 'string' || fault !== undefined) return;
    logged = undefined;
    if (same) return;
    server.setSecureContext(secureContextOf(found));
    inForce = found;
    logger.log(`The TLS certificate is replaced: ${validity(found)}`, 'Tls');
  };

  let timer: NodeJS.Timeout;
  const lookLater = (): void => {
    timer = setTimeout(
      () => void look().finally(() => server.listening && lookLater()),
      LOOK_EVERY_MS,
    ).unref();
  };
  server.once('listening', lookLater);
  server.once('close', () => clearTimeout(timer));
  logger.log(`HTTPS: ${validity(first)}`, 'Tls');
}
