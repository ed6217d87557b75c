/** What asking for metrics may cost, on the port of the API and on a port of their own. */
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { Gauge, Registry } from 'prom-client';
import { MetricsText } from '../../../src/platform/telemetry/metrics.js';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { freePort } from '../../support/free-port.js';

const GET_METRICS = 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n';
const MAX_CONNECTIONS = 20;

let app: TestApp;
let port: number;
const sockets: Socket[] = [];

beforeAll(async () => {
  port = await freePort();
  app = await startApp({ METRICS_PORT: `127.0.0.1:${port}` });
});
afterAll(() => app.close());
afterEach(() => sockets.splice(0).forEach((socket) => socket.destroy()));

function open(bytes: string): { text: () => string; isClosed: () => boolean } {
  let [text, isClosed] = ['', false];
  const socket = connect(port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => undefined);
  socket.on('close', () => (isClosed = true));
  socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk));
  socket.write(bytes);
  return { text: () => text, isClosed: () => isClosed };
}

describe('METRICS_PORT', () => {
  it('answers one request of a connection, and closes it', async () => {
    const client = open(GET_METRICS.repeat(50));
    await eventually('it is closed', client.isClosed);
    expect(client.text().match(/HTTP\/1\.1 200 /g)).toHaveLength(1);
    expect(client.text().match(/HTTP\/1\.1 (?!503 )/g)).toHaveLength(1);
  });

  it('takes a few connections; others are closed at once and may come later', async () => {
    const kept = Array.from({ length: MAX_CONNECTIONS }, () => open('GET /metrics'));
    await eventually('they are open', () =>
      sockets.every(({ readyState }) => readyState === 'open'),
    );
    const refused = open(GET_METRICS);
    await eventually('one more is closed', refused.isClosed);
    expect(refused.text()).toBe('');
    expect(kept.some(({ isClosed }) => isClosed())).toBe(false);

    sockets[0]?.destroy();
    await eventually('another one is served', async () => {
      const client = open(GET_METRICS);
      await eventually('it ends', client.isClosed);
      return client.text().startsWith('HTTP/1.1 200 ');
    });
  });

  it('collects once for all who ask at the same time', async () => {
    const registry = app.app.get(Registry);
    let collections = 0;
    new Gauge({
      name: 'test_collections',
      help: 'Collections so far',
      registers: [registry],
      collect: () => void collections++,
    });
    const metrics = app.app.get(MetricsText);
    await Promise.all(Array.from({ length: 10 }, () => metrics.collect()));
    expect(collections).toBe(1);
    await metrics.collect();
    expect(collections).toBe(2);
  });
});
