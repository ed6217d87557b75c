/**
 * The form of session tokens: `hf_`, 256 random bits, and a checksum of both. A text without the
 * form is rejected without a look-up: a typing error, a cut, or a guess of somebody who does not
 * know the form. It proves nothing else; only the look-up of its SHA-256 does.
 */
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

const PREFIX = 'hf_';
const RANDOM_BYTES = 32;
/**
 * Tokens of earlier releases have no checksum. They stay valid until their sessions end, at the
 * latest SESSION_ABSOLUTE_SECONDS after the upgrade.
 */
const TOKEN = /^(hf_[\w-]{43})([\w-]{6})?$/;

const checksumOf = (text: string): string => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc32(text));
  return bytes.toString('base64url');
};

export function createToken(): string {
  const text = PREFIX + randomBytes(RANDOM_BYTES).toString('base64url');
  return text + checksumOf(text);
}

export function hasTokenForm(text: string): boolean {
  const [, random = '', checksum] = TOKEN.exec(text) ?? [];
  const isOfEarlierRelease = random !== '' && checksum === undefined;
  return isOfEarlierRelease || (random !== '' && checksum === checksumOf(random));
}
