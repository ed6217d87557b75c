/**
 * The address of a request's client, in one canonical form: rate limits count it and sessions show
 * it. Invariant: a client cannot choose it. Without TRUST_PROXY it is the socket's address. With
 * it, it is the last hop of X-Forwarded-For that is not a trusted proxy.
 */
import type { IncomingMessage } from 'node:http';
import { isIPv4, isIPv6, SocketAddress } from 'node:net';
import type { Duplex } from 'node:stream';
import proxyAddr from '@fastify/proxy-addr';
import type { FastifyRequest } from 'fastify';

/**
 * The canonical form (RFC 5952). IPv4-mapped IPv6 becomes IPv4; a port or zone is removed.
 * @returns undefined when the text is not an address
 */
function canonical(text: string): string | undefined {
  const [address = ''] = withoutPort(text).split('%');
  if (isIPv4(address)) return address;
  if (!isIPv6(address)) return undefined;
  return new SocketAddress({ address, family: 'ipv6' }).address.replace(/^::ffff:(?=\d+\.)/, '');
}

/** Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function withoutPort(text: string): string {
  const [, bracketed] = /^\[([^\]]*)\](?::\d+)?$/.exec(text) ?? [];
  const [, dotted] = /^([\d.]+):\d+$/.exec(text) ?? [];
  return bracketed ?? dotted ?? text;
}

/** Node forgets the address of a connection that the client has closed. */
const UNKNOWN_ADDRESS = 'unknown';

/** The address of a request's client. */
export const clientAddressOf = ({ ips, ip }: FastifyRequest): string => clientAmong(ips ?? [ip]);

/**
 * @param hops from the socket outwards, up to the first that is not a trusted proxy. If that one is
 *   not an address, the trusted proxy before it counts.
 */
function clientAmong(hops: readonly (string | undefined)[]): string {
  for (const hop of hops.toReversed()) {
    const address = canonical(hop ?? '');
    if (address !== undefined) return address;
  }
  return hops[0] ?? UNKNOWN_ADDRESS;
}

/**
 * Finds the client of a request whose URL the router rejects: Fastify does not know its proxies.
 * @param trustProxy addresses and networks of proxies, as Fastify takes them
 */
export function createClientLookup(
  trustProxy: readonly string[],
): (request: IncomingMessage) => string {
  const isTrusted = proxyAddr.compile([...trustProxy]);
  return (request) => clientAmong(proxyAddr.all(request, isTrusted));
}

/** 16-bit groups in the part of an IPv6 address that names a network (/64). */
const NETWORK_GROUPS = 4;
const IPV6_GROUPS = 8;
const IPV4_MAPPED_PREFIX = '0:0:0:0:0:ffff';

/**
 * The network that limits count as one client: an IPv4 address, or an IPv6 /64, because providers
 * assign at least a /64 to each customer.
 */
export function networkOf(ip: string): string {
  const [address = ''] = ip.split('%');
  if (!isIPv6(address)) return address;
  const groups = groupsOf(address);
  return ipv4Of(groups) ?? `${groups.slice(0, NETWORK_GROUPS).join(':')}::/64`;
}

/** The eight groups of an IPv6 address, in hexadecimal without leading zeros. */
function groupsOf(address: string): string[] {
  // The URL parser writes every IPv6 address in one form (RFC 5952), IPv4-mapped ones too.
  const canonicalForm = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [head = '', tail = ''] = canonicalForm.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === '' ? [] : tail.split(':');
  const zeros = Array<string>(IPV6_GROUPS - left.length - right.length).fill('0');
  return [...left, ...zeros, ...right];
}

/** The IPv4 address of an IPv4-mapped IPv6 address; undefined for any other. */
function ipv4Of(groups: readonly string[]): string | undefined {
  if (groups.slice(0, 6).join(':') !== IPV4_MAPPED_PREFIX) return undefined;
  const [high = 0, low = 0] = groups.slice(6).map((group) => parseInt(group, 16));
  return [high >> 8, high & 255, low >> 8, low & 255].join('.');
}

/**
 * Finds the address of a connection's client, which may not have sent a request yet.
 * @param trustProxy addresses and networks of proxies, as Fastify takes them
 * @returns a function; it returns undefined for proxies, whose connections are of many clients, and
 *   for clients that have gone
 */
export function createPeerLookup(
  trustProxy: readonly string[],
): (socket: Duplex) => string | undefined {
  const isTrusted = proxyAddr.compile([...trustProxy]);
  return (socket) => {
    const [address] = proxyAddr.all({ socket, headers: {} } as IncomingMessage) as [string?];
    const isProxy = address !== undefined && isTrusted(address, 0);
    return isProxy ? undefined : address;
  };
}
