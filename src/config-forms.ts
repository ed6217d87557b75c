/** The forms of environment variables: what values they may have, and how these are read. */
import { isIP } from 'node:net';

/** What a server listens on. */
export interface Listener {
  /** Absent: the host of the API. */
  readonly host?: string;
  readonly port: number;
}

/** What values a variable may have. */
export interface Form<T> {
  /** Completes `NAME must be …`. */
  readonly description: string;
  /** @returns undefined when the text does not have the form */
  readonly parse: (text: string) => T | undefined;
}

/** A text that is used as it is. */
export const text = (description: string, isValid: (text: string) => boolean): Form<string> => ({
  description,
  parse: (value) => (isValid(value) ? value : undefined),
});

export const listOf = (
  description: string,
  isValid: (text: string) => boolean,
): Form<string[]> => ({
  description: `${description}, separated by commas`,
  parse: (value) => {
    const items = value.split(',').map((item) => item.trim());
    return items.every(isValid) ? items : undefined;
  },
});

/** @param what counts, e.g. `seconds` */
export const integer = (what: string, min: number, max: number, note = ''): Form<number> => ({
  description: `${what} from ${min} to ${max}${note}`,
  parse: (value) => {
    const number = /^\d{1,15}$/.test(value) ? Number(value) : NaN;
    return number >= min && number <= max ? number : undefined;
  },
});

export const oneOf = <const T extends string>(...words: T[]): Form<T> => ({
  description: words
    .map((word) => `"${word}"`)
    .join(', ')
    .replace(/, ([^,]*)$/, ' or $1'),
  parse: (value) => words.find((word) => word === value),
});

export const url = (description: string, ...protocols: string[]): Form<string> =>
  text(description, (value) => {
    if (!URL.canParse(value)) return false;
    const { protocol, hostname } = new URL(value);
    // "amqp:broker" is a URL, too: with a path, but without a host.
    return protocols.includes(protocol) && hostname !== '';
  });

export const file = (description: string): Form<string> =>
  text(description, (value) => value !== '');

export const MAX_PORT = 65_535;
export const isHost = (value: string): boolean =>
  isIP(value) !== 0 || /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/i.test(value);

/** A port, or a host and a port: `9464`, `10.0.0.5:9464`, `[::1]:9464`. */
export const LISTENER: Form<Listener> = {
  description: `a port from 1 to ${MAX_PORT}, or a host and such a port`,
  parse: (value) => {
    const [, bracketed, name, digits = value] = /^(?:\[(.*)\]|([^:]*)):(\d+)$/.exec(value) ?? [];
    const port = /^\d{1,5}$/.test(digits) ? Number(digits) : NaN;
    if (!(port >= 1 && port <= MAX_PORT)) return undefined;
    const host = bracketed ?? name;
    if (host === undefined) return { port };
    const isValid = bracketed === undefined ? isHost(host) : isIP(host) === 6;
    return isValid ? { host, port } : undefined;
  },
};

export const isUsername = (value: string): boolean => /^[a-z0-9_.-]{3,32}$/.test(value);

export function isPassword(value: string): boolean {
  const length = [...value].length;
  return length >= 15 && length <= 128;
}

export const isPostgresUrl = (value: string): boolean =>
  URL.canParse(value) && /^postgres(ql)?:\/\/\S+$/.test(value);

/** `redis[s][+topology]://[[user]:password@]hosts[/path]` */
const REDIS_URL = /^rediss?(\+sentinel|\+cluster)?:\/\/(?:[^:/]*:.*@)?([^@/?#]+)(\/[^?#]*)?$/;
/** By topology: a database; the name of the master and a database; nothing. */
const REDIS_PATHS = {
  '': /^(\/\d{0,4})?$/,
  '+sentinel': /^\/[^/]+(\/\d{1,4})?$/,
  '+cluster': /^\/?$/,
};

/**
 * Accepts what the cache can parse (platform/cache/store/redis/redis-url.ts). The two do not import
 * each other, because the cache knows no configuration. redis-url.spec.ts compares them.
 */
export function isRedisUrl(value: string): boolean {
  const [, topology = '', hosts = '', path = ''] = REDIS_URL.exec(value) ?? [];
  const addresses = hosts.split(',');
  const isPathValid = REDIS_PATHS[topology as keyof typeof REDIS_PATHS].test(path);
  const isCountValid = topology !== '' || addresses.length === 1;
  return isPathValid && isCountValid && addresses.every(isRedisAddress);
}

function isRedisAddress(address: string): boolean {
  const hasValidCharacters = /^[a-z\d[][\w.:\]-]*$/i.test(address);
  const hasZeroPort = address.includes(':0');
  const endsInside = /[:.-]$/.test(address);
  if (!hasValidCharacters || hasZeroPort || endsInside) return false;
  return URL.canParse(`redis://${address}`);
}

/** Names that Fastify knows for loopback and private networks. */
const NAMED_NETWORKS = ['loopback', 'linklocal', 'uniquelocal'];

export function isNetwork(value: string): boolean {
  if (NAMED_NETWORKS.includes(value)) return true;
  const [address = '', prefix, ...rest] = value.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  if (prefix === undefined) return true;
  const maxPrefix = family === 4 ? 32 : 128;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= maxPrefix;
}

/** As a browser sends it: `https://app.example`, without a path and without the default port. */
export function isOrigin(value: string): boolean {
  if (!/^https?:\/\/[^*]+$/.test(value) || !URL.canParse(value)) return false;
  return new URL(value).origin === value;
}
