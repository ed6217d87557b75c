/**
 * The address that a request came from, in one form: what limits count and sessions show. No client chooses it: without
 * TRUST_PROXY it is the socket's; with it, the last hop that is no listed proxy. A hop that is no address is not believed.
 */
import { isIP, SocketAddress } from 'node:net';
import type { FastifyRequest } from 'fastify';

/** Canonical (RFC 5952), IPv4 where it is mapped into IPv6, without a port or zone; undefined for what is no address. */
function canonical(text: string): string | undefined {
  // Some proxies write the port as well: "192.0.2.1:4711", "[2001:db8::1]:4711".
  const bare =
    /^\[([^\]]*)\](?::\d+)?$/.exec(text)?.[1] ?? /^([\d.]+):\d+$/.exec(text)?.[1] ?? text;
  const [address = ''] = bare.split('%');
  if (isIP(address) === 4) return address;
  if (isIP(address) !== 6) return undefined;
  return new SocketAddress({ address, family: 'ipv6' }).address.replace(/^::ffff:(?=\d+\.)/, '');
}

export function addressOf({ ips, ip }: FastifyRequest): string {
  // From the socket outwards, up to the first that is no listed proxy.
  for (const hop of ips?.toReversed() ?? [ip]) {
    const address = canonical(hop);
    if (address !== undefined) return address;
  }
  return ip;
}
