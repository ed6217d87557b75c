/**
 * Parses REDIS_URL. Invariant: a URL that is not exactly one of the documented forms is rejected,
 * so that a mistyped topology is never taken for another one. src/config.ts rejects the same at
 * startup.
 */
import { isIPv6 } from 'node:net';

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

export type RedisTopologyName = 'standalone' | 'sentinel' | 'cluster';

/** What a Redis URL names. */
export interface RedisTarget {
  readonly topology: RedisTopologyName;
  readonly tls: boolean;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** The server, the Sentinels, or some nodes of the cluster; at least one. */
  readonly addresses: readonly RedisAddress[];
  /** The name by which the Sentinels know the master; empty except for `sentinel`. */
  readonly masterName: string;
  readonly database: number;
}

/** What the path of a URL names. */
type RedisPath = Pick<RedisTarget, 'masterName' | 'database'>;

interface RedisUrlForm {
  readonly defaultPort: number;
  readonly canHaveManyAddresses: boolean;
  /**
   * @param segment the first segment of the path; empty when there is none
   * @param extraSegment the second; the URL pattern allows only a number
   * @returns undefined for a path that this topology does not have
   */
  readonly parsePath: (segment: string, extraSegment: string | undefined) => RedisPath | undefined;
}

const FORMS: Readonly<Record<RedisTopologyName, RedisUrlForm>> = {
  standalone: {
    defaultPort: 6_379,
    canHaveManyAddresses: false,
    parsePath: parseStandalonePath,
  },
  sentinel: {
    defaultPort: 26_379,
    canHaveManyAddresses: true,
    parsePath: parseSentinelPath,
  },
  cluster: {
    defaultPort: 6_379,
    canHaveManyAddresses: true,
    parsePath: parseClusterPath,
  },
};

/** `redis[s][+topology]://[[user]:password@]hosts[/segment[/extraSegment]]` */
const URL_PATTERN = new RegExp(
  [
    String.raw`^redis(?<tls>s?)(?:\+(?<topology>sentinel|cluster))?://`,
    String.raw`(?:(?<username>[^:/]*):(?<password>.*)@)?`,
    String.raw`(?<hosts>[^@/?#]+)`,
    String.raw`(?:/(?<segment>[^/?#]*)(?:/(?<extraSegment>\d{1,4}))?)?$`,
  ].join(''),
);
/** `[<IPv6>][:port]` or `<name>[:port]` */
const ADDRESS_PATTERN =
  /^(?:\[(?<ipv6>[^\]]+)\]|(?<name>[a-z\d](?:[\w.-]*[a-z\d])?))(?::(?<port>[1-9]\d{0,4}))?$/i;
const DATABASE_PATTERN = /^\d{0,4}$/;
const MAX_PORT = 65_535;

/**
 * The forms of REDIS_URL, each also with `rediss` for TLS. User, password and master name may be
 * percent-encoded.
 *
 * - One server: `redis://[[user]:password@]host[:6379][/db]`
 * - A master behind Sentinels:
 *   `redis+sentinel://[[user]:password@]host[:26379],host…/<master-name>[/<db>]`.
 *   Name all Sentinels: more than half of those named must agree on the master. User and password
 *   are those of the servers; a Sentinel gets them only if it asks for authentication.
 * - A Redis Cluster: `redis+cluster://[[user]:password@]host[:6379],host…`. Name a few nodes; they
 *   name the others.
 *
 * @returns undefined for anything else
 */
export function parseRedisUrl(url: string): RedisTarget | undefined {
  const parts = URL_PATTERN.exec(url)?.groups;
  if (parts?.hosts === undefined) return undefined;
  const topology = (parts.topology as RedisTopologyName | undefined) ?? 'standalone';
  const form = FORMS[topology];

  const addresses = parts.hosts.split(',').map((host) => parseAddress(host, form.defaultPort));
  if (!addresses.every((address) => address !== undefined)) return undefined;
  if (addresses.length > 1 && !form.canHaveManyAddresses) return undefined;

  const path = form.parsePath(parts.segment ?? '', parts.extraSegment);
  if (!path) return undefined;
  return {
    topology,
    tls: parts.tls === 's',
    username: percentDecode(parts.username),
    password: percentDecode(parts.password),
    addresses,
    ...path,
  };
}

/** `/<db>` */
function parseStandalonePath(segment: string, extraSegment?: string): RedisPath | undefined {
  const isDatabase = DATABASE_PATTERN.test(segment);
  if (!isDatabase || extraSegment !== undefined) return undefined;
  return { masterName: '', database: Number(segment) };
}

/** `/<master-name>[/<db>]` */
function parseSentinelPath(segment: string, extraSegment = '0'): RedisPath | undefined {
  const masterName = percentDecode(segment);
  if (masterName === undefined) return undefined;
  return { masterName, database: Number(extraSegment) };
}

/** A cluster has no path: it has one database only. */
function parseClusterPath(segment: string, extraSegment?: string): RedisPath | undefined {
  if (segment !== '' || extraSegment !== undefined) return undefined;
  return { masterName: '', database: 0 };
}

function parseAddress(text: string, defaultPort: number): RedisAddress | undefined {
  const parts = ADDRESS_PATTERN.exec(text)?.groups;
  if (!parts) return undefined;
  const { ipv6, name } = parts;
  const host = ipv6 ?? name;
  const port = Number(parts.port ?? defaultPort);
  const isInvalidIpv6 = ipv6 !== undefined && !isIPv6(ipv6);
  if (host === undefined || isInvalidIpv6 || port > MAX_PORT) return undefined;
  return { host, port };
}

/**
 * @returns undefined for an empty text; a text that is not valid percent-encoding as it is, because
 *   many people do not encode their passwords
 */
function percentDecode(text = ''): string | undefined {
  try {
    return decodeURIComponent(text) || undefined;
  } catch {
    return text;
  }
}
