/**
 * Replaces the certificate of the running server when its files change. Invariant: an invalid pair
 * is never served, the current one stays. New connections get the new pair, open ones continue.
 * Contents are compared, not times: files may be overwritten, renamed or linked (Kubernetes).
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Server } from 'node:tls';
import type { LoggerService } from '@nestjs/common';
import { PollingLoop } from '../../timing/polling-loop.js';
import { explainInvalidPair, secureContextOf, type TlsFiles, type TlsPair } from './tls-pair.js';

const POLL_INTERVAL_MS = 1_000;

export class TlsReload {
  /** Why the last poll found no usable pair. */
  private lastReason: string | undefined;
  private loggedReason: string | undefined;

  /** @param current the pair that the server has */
  constructor(
    private readonly server: Pick<Server, 'setSecureContext'>,
    private readonly files: TlsFiles,
    private current: TlsPair,
    private readonly logger: LoggerService,
  ) {}

  /** Reads the files once and serves them if they are a new, valid pair. */
  async poll(): Promise<void> {
    const { pair, reason } = await this.readUsablePair();
    this.logLastingReason(reason);
    if (pair === undefined || isSamePair(pair, this.current)) return;
    this.server.setSecureContext(secureContextOf(pair));
    this.current = pair;
    this.logger.log(`TLS certificate replaced; ${describeExpiry(pair)}`, 'Tls');
  }

  private async readUsablePair(): Promise<{ pair?: TlsPair; reason?: string }> {
    let pair: TlsPair;
    try {
      const { certFile, keyFile } = this.files;
      const [cert, key] = await Promise.all([readFile(certFile), readFile(keyFile)]);
      pair = { cert, key };
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      return { reason: `TLS_CERT_FILE or TLS_KEY_FILE cannot be read (${code})` };
    }
    if (isSamePair(pair, this.current)) return { pair };
    const reason = explainInvalidPair(pair);
    return reason === undefined ? { pair } : { reason };
  }

  /**
   * Logs a reason once, when two polls in a row find it: a single poll may fall between the writing
   * of the two files.
   */
  private logLastingReason(reason: string | undefined): void {
    const isLasting = reason !== undefined && reason === this.lastReason;
    this.lastReason = reason;
    if (reason === undefined) this.loggedReason = undefined;
    if (!isLasting || reason === this.loggedReason) return;
    this.loggedReason = reason;
    const message = `TLS certificate not replaced, the current one stays: ${reason}`;
    this.logger.error(message, undefined, 'Tls');
  }
}

/** Polls the files from when the server listens until it closes. */
export function reloadTlsPair(
  server: Server,
  files: TlsFiles,
  current: TlsPair,
  logger: LoggerService,
): void {
  const reload = new TlsReload(server, files, current, logger);
  const loop = new PollingLoop({
    step: async () => {
      await reload.poll();
      return POLL_INTERVAL_MS;
    },
    onError: (error) => logger.error('TLS certificate not replaced', String(error), 'Tls'),
    retry: { minMs: POLL_INTERVAL_MS, maxMs: POLL_INTERVAL_MS },
  });
  server.once('listening', () => loop.start());
  server.once('close', () => void loop.stop());
  logger.log(`HTTPS is on; ${describeExpiry(current)}`, 'Tls');
}

const isSamePair = (a: TlsPair, b: TlsPair): boolean =>
  a.cert.equals(b.cert) && a.key.equals(b.key);

function describeExpiry({ cert }: TlsPair): string {
  const { validTo } = new X509Certificate(cert);
  const hasExpired = Date.parse(validTo) < Date.now();
  return hasExpired
    ? `the certificate expired on ${validTo}`
    : `the certificate is valid until ${validTo}`;
}
