/** The page at `/`. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp, type TestApp } from '../../support/app.js';
import { eventually } from '../../support/eventually.js';
import { freePort } from '../../support/free-port.js';
import { type Reply, sendRequest } from '../../support/http-client.js';
import { expectProblem } from '../../support/problem.js';

let app: TestApp;

beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const linksIn = ({ text }: Reply): string[] =>
  [...text.matchAll(/href="([^"]+)"/g)].map(([, path]) => path as string);

describe('GET /', () => {
  it.each([undefined, 'text/html,*/*;q=0.8', 'application/json', '*/*'])(
    'is a page of links for Accept: %s',
    async (accept) => {
      const headers: Record<string, string> = accept === undefined ? {} : { Accept: accept };
      const reply = await app.call('GET', '/', { headers });
      expect([reply.status, reply.headers.get('content-type')]).toEqual([
        200,
        'text/html; charset=utf-8',
      ]);
      expect(linksIn(reply)).toEqual(
        expect.arrayContaining([
          '/docs',
          '/docs/openapi.json',
          '/problems',
          '/health/ready',
          '/metrics',
        ]),
      );
    },
  );

  it('has only links that lead somewhere', async () => {
    const links = linksIn(await app.call('GET', '/'));
    const statusOf = async (path: string): Promise<number> => (await app.call('GET', path)).status;
    for (const path of links) {
      // On a busy machine, a check of readiness may take longer than its deadline.
      await eventually(`${path} is 200`, async () => (await statusOf(path)) === 200);
    }
  });

  it('has no link to the metrics when they are on a port of their own', async () => {
    const separate = await startApp({ METRICS_PORT: String(await freePort()) });
    try {
      expect(linksIn(await separate.call('GET', '/'))).not.toContain('/metrics');
    } finally {
      await separate.close();
    }
  });

  it('has the metrics on the address of METRICS_PORT, when it names one', async () => {
    const port = await freePort();
    const separate = await startApp({ METRICS_PORT: `127.0.0.2:${port}` });
    try {
      const { status } = await sendRequest(`http://127.0.0.2:${port}/metrics`, 'GET');
      const onHost = sendRequest(`http://127.0.0.1:${port}/metrics`, 'GET');
      await expect(onHost).rejects.toThrow('ECONNREFUSED');
      expect([status, (await separate.call('GET', '/metrics')).status]).toEqual([200, 404]);
    } finally {
      await separate.close();
    }
  });

  it('answers HEAD and OPTIONS, and no other method', async () => {
    expect((await app.call('HEAD', '/')).status).toBe(200);
    const options = await app.call('OPTIONS', '/');
    expect([options.status, options.headers.get('allow')]).toEqual([204, 'GET, HEAD, OPTIONS']);
    expectProblem(await app.call('POST', '/'), 405, 'method-not-allowed');
  });
});
