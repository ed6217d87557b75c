/** Whose connections count together, and when they count no longer. */
import { createServer, type Server } from 'node:http';
import { PassThrough } from 'node:stream';
import { beforeEach, describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { boundConnections } from '../../../../src/platform/http/bounds/connections.js';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';

const MAX_CONNECTIONS = 2;
const PROXY = '192.0.2.200';

describe('the bound on connections', () => {
  let server: Server;
  let registry: Registry;

  beforeEach(() => {
    server = createServer();
    registry = new Registry();
    boundConnections(server, new Refusals(registry), {
      maxConnections: MAX_CONNECTIONS,
      trustProxy: [PROXY],
    });
  });

  /** A connection as the server reports it. It is destroyed when it was refused. */
  function connectFrom(remoteAddress: string): PassThrough {
    const socket = Object.assign(new PassThrough(), { remoteAddress });
    // Node's own listener would speak HTTP with it.
    for (const listener of server.listeners('connection').slice(-1)) listener.call(server, socket);
    return socket;
  }
  const areRefused = (addresses: readonly string[]): boolean[] =>
    addresses.map((address) => connectFrom(address).destroyed);
  const refusedBy = async (bound: string): Promise<number | undefined> => {
    const metric = registry.getSingleMetric('holdfast_connections_refused_total');
    const samples = (await metric?.get())?.values ?? [];
    return samples.find(({ labels }) => labels.bound === bound)?.value;
  };

  it('counts the addresses of an IPv6 /64 together', () => {
    const addresses = [
      '2001:db8:1:2::1',
      '2001:db8:1:2:3::1',
      '2001:db8:1:2::4',
      '2001:db8:1:3::1',
    ];
    expect(areRefused(addresses)).toEqual([false, false, true, false]);
  });

  it('counts an IPv4 address and its IPv6-mapped form together', () => {
    const addresses = ['192.0.2.1', '::ffff:192.0.2.1', '::ffff:192.0.2.1', '::ffff:192.0.2.2'];
    expect(areRefused(addresses)).toEqual([false, false, true, false]);
  });

  it('does not count the connections of a trusted proxy, in either form', () => {
    const addresses = [PROXY, `::ffff:${PROXY}`, PROXY, `::ffff:${PROXY}`, PROXY];
    expect(areRefused(addresses)).toEqual(addresses.map(() => false));
  });

  it('counts refused connections by their bound', async () => {
    areRefused(['192.0.2.1', '192.0.2.1', '192.0.2.1']);
    server.emit('drop');
    server.emit('drop');
    expect([await refusedBy('address'), await refusedBy('process')]).toEqual([1, 2]);
  });

  it('frees one place for each connection that closes, and none for a refused one', async () => {
    const [first] = [connectFrom('192.0.2.1'), connectFrom('192.0.2.1')];
    const refused = connectFrom('192.0.2.1');
    await new Promise((resolve) => refused.once('close', resolve));
    expect(areRefused(['192.0.2.1'])).toEqual([true]);
    first.destroy();
    await new Promise((resolve) => first.once('close', resolve));
    expect(areRefused(['192.0.2.1', '192.0.2.1'])).toEqual([false, true]);
  });
});
