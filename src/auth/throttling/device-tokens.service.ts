/**
 * Recognises the devices that a user has logged in from: each gets a signed token with its login,
 * as a cookie, and sends it with the next one. A token admits nobody. It only decides in which
 * queue a login waits and which failed logins count for it (docs/adr/0020-known-devices.md).
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { Inject, Injectable, Optional } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { DataSource } from 'typeorm';
import { parse as parseUuid, stringify as stringifyUuid } from 'uuid';
import { CLOCK, type Clock } from '../../platform/timing/clock.js';

/** Where a login comes from. */
export interface Origin {
  readonly ip: string;
  readonly userAgent: string | null;
  /** As the client sent it; nothing is known of it yet. */
  readonly deviceToken?: string | undefined;
}

/** A device that this user has logged in from. */
export interface KnownDevice {
  readonly userId: string;
  /** Random, in hexadecimal. The device keeps it as long as this user logs in from it. */
  readonly deviceId: string;
}

/** A device that was not used for so long is a new one. */
export const MAX_UNUSED_SECONDS = 180 * 24 * 3600;

/**
 * `__Host-`: browsers accept the cookie only over TLS (or from localhost) and only from this very
 * host, so no other site can plant one (RFC 6265bis, section 4.1.3.2).
 */
const COOKIE = '__Host-holdfast_device';
const ATTRIBUTES = `Path=/; Max-Age=${MAX_UNUSED_SECONDS}; Secure; HttpOnly; SameSite=Strict`;

/** User id, device id and the seconds of issue; then the HMAC-SHA-256 of them. */
const USER_BYTES = 16;
const DEVICE_BYTES = 16;
const TIME_BYTES = 6;
const CLAIM_BYTES = USER_BYTES + DEVICE_BYTES + TIME_BYTES;
const SIGNATURE_BYTES = 32;
const TOKEN_CHARACTERS = Math.ceil(((CLAIM_BYTES + SIGNATURE_BYTES) * 8) / 6);

const TOKEN_IN_COOKIES = new RegExp(
  `(?:^|; ?)${COOKIE}=([A-Za-z0-9_-]{${TOKEN_CHARACTERS}})(?:;|$)`,
);

/** The device token of a request; undefined without a cookie of the right form. */
export const deviceTokenOf = ({ headers }: FastifyRequest): string | undefined =>
  TOKEN_IN_COOKIES.exec(headers.cookie ?? '')?.[1];

/** The value of `Set-Cookie` that makes a browser send the token with its next login. */
export const deviceCookieOf = (token: string): string => `${COOKIE}=${token}; ${ATTRIBUTES}`;

@Injectable()
export class DeviceTokensService {
  private key: Promise<Buffer> | undefined;

  constructor(
    private readonly dataSource: DataSource,
    @Optional() @Inject(CLOCK) private readonly now: Clock = Date.now,
  ) {}

  /**
   * Takes microseconds and no query, so that a flood of forged tokens costs nothing.
   * @returns undefined for a token that is forged or too old
   */
  async verify(token: string | undefined): Promise<KnownDevice | undefined> {
    if (token === undefined) return undefined;
    const bytes = Buffer.from(token, 'base64url');
    const claim = bytes.subarray(0, CLAIM_BYTES);
    const signature = bytes.subarray(CLAIM_BYTES);
    const isGenuine =
      signature.length === SIGNATURE_BYTES && timingSafeEqual(signature, await this.sign(claim));
    if (!isGenuine) return undefined;
    const issuedAt = claim.readUIntBE(USER_BYTES + DEVICE_BYTES, TIME_BYTES);
    const isTooOld = this.now() / 1000 > issuedAt + MAX_UNUSED_SECONDS;
    if (isTooOld) return undefined;
    return {
      userId: stringifyUuid(claim.subarray(0, USER_BYTES)),
      deviceId: claim.subarray(USER_BYTES, USER_BYTES + DEVICE_BYTES).toString('hex'),
    };
  }

  /**
   * A token for the device of a login that has just succeeded.
   * @param known what the device proved; a device of another user becomes a new one
   */
  async issue(userId: string, known: KnownDevice | undefined): Promise<string> {
    const isSameUser = known?.userId === userId;
    const deviceId = isSameUser ? Buffer.from(known.deviceId, 'hex') : randomBytes(DEVICE_BYTES);
    const time = Buffer.alloc(TIME_BYTES);
    time.writeUIntBE(Math.floor(this.now() / 1000), 0, TIME_BYTES);
    const claim = Buffer.concat([parseUuid(userId), deviceId, time]);
    return Buffer.concat([claim, await this.sign(claim)]).toString('base64url');
  }

  private async sign(claim: Buffer): Promise<Buffer> {
    this.key ??= this.loadKey();
    const key = await this.key;
    return createHmac('sha256', key).update(claim).digest();
  }

  /** One query for a process. All nodes share the key. */
  private async loadKey(): Promise<Buffer> {
    try {
      const [row] = await this.dataSource.query<{ key: Buffer }[]>('SELECT key FROM device_key');
      if (!row) throw new Error('The table device_key has no row; insert one: DEFAULT VALUES');
      return row.key;
    } catch (error) {
      this.key = undefined;
      throw error;
    }
  }
}
