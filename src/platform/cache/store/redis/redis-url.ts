/**
 * The one setting that says where Redis is, taken apart. The invariant: whatever is not exactly one of the forms below is
 * refused, so that a mistyped topology can never be mistaken for another (src/config.ts refuses the same at the start).
 */
import { isIPv6 } from 'node:net';

export interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

/** What a Redis URL names. */
export interface RedisTarget {
  readonly topology: 'standalone' | 'sentinel' | 'cluster';
  readonly tls: boolean;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** One server, the Sentinels, or some nodes of the cluster; at least one. */
  readonly addresses: readonly RedisAddress[];
  /** What the Sentinels call the master; empty but for `sentinel`. */
  readonly masterName: string;
  readonly database: number;
}

const FORM =
  /^redis(s?)(?:\+(sentinel|cluster))?:\/\/(?:([^:/]*):(.*)@)?([^@/?#]+)(?:\/([^/?#]*)(?:\/(\d{1,4}))?)?$/;
const ADDRESS = /^(?:\[([^\]]+)\]|([a-z\d](?:[\w.-]*[a-z\d])?))(?::([1-9]\d{0,4}))?$/i;

/**
 * The forms of REDIS_URL, each also with `rediss` for TLS. User, password and
 * master name may be percent-encoded.
 *
 * - One server: `redis://[[user]:password@]host[:6379][/db]`
 * - A master behind Sentinels: `redis+sentinel://[[user]:password@]host[:26379],host…/<master-name>[/<db>]`. Name all of
 *   them: more than half of those named must agree on the master. User and password are the servers' own, shown to a
 *   Sentinel only if it asks for some.
 * - A Redis Cluster: `redis+cluster://[[user]:password@]host[:6379],host…`. Name a few nodes: they tell of the others.
 *
 * @returns undefined for anything else
 */
export function parseRedisUrl(url: string): RedisTarget | undefined {
  const [, tls, kind, username, password, hosts, first = '', second] = FORM.exec(url) ?? [];
  if (hosts === undefined) return undefined;
  const topology = (kind as 'sentinel' | 'cluster' | undefined) ?? 'standalone';
  const addresses = hosts
    .split(',')
    .map((host) => parseAddress(host, topology === 'sentinel' ? 26_379 : 6_379));
  if (!addresses.every((address) => address !== undefined)) return undefined;
  if (topology === 'standalone' && addresses.length > 1) return undefined;
  if (topology === 'sentinel' ? first === '' : second !== undefined) return undefined;
  if (topology === 'standalone' ? !/^\d{0,4}$/.test(first) : topology === 'cluster' && first !== '')
    return undefined;
  return {
    topology,
    tls: tls === 's',
    username: decoded(username),
    password: decoded(password),
    addresses,
    masterName: topology === 'sentinel' ? decoded(first)! : '',
    database: Number(topology === 'sentinel' ? (second ?? 0) : first),
  };
}

function parseAddress(text: string, usualPort: number): RedisAddress | undefined {
  const [found, v6, name, port = usualPort] = ADDRESS.exec(text) ?? [];
  if (found === undefined || Number(port) > 65_535 || (v6 !== undefined && !isIPv6(v6)))
    return undefined;
  return { host: (v6 ?? name)!, port: Number(port) };
}

/** As it was meant by someone who does not know of percent-encoding, too. */
function decoded(text = ''): string | undefined {
  try {
    return decodeURIComponent(text) || undefined;
  } catch {
    return text;
  }
}
