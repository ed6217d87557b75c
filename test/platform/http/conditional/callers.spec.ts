/** No answer to one caller is validated for another (docs/adr/0024-own-user.md). */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { startApp } from '../../../support/app.js';
import type { Reply } from '../../../support/http-client.js';
import { casesOf, type RouteTarget, ROUTES, startRouteTarget } from '../routes.js';

const READS = casesOf(ROUTES.filter(({ method }) => method === 'GET'));

let target: RouteTarget;

beforeAll(async () => {
  target = await startRouteTarget();
});
afterAll(() => target?.app.close());

const varyOf = ({ headers }: Reply): string[] =>
  (headers.get('vary') ?? '').toLowerCase().split(/, */);

describe.each(READS)('%s', (_, { path }) => {
  const read = (token?: string, headers = {}): Promise<Reply> =>
    target.app.call('GET', target.pathOf(path), { token, headers });

  it('names Authorization in Vary, beside Accept-Encoding, for every caller', async () => {
    const callers = [target.owner.token, target.adminToken, 'dead', undefined];
    const replies = await Promise.all(callers.map((token) => read(token)));
    const varies = replies.map(varyOf);
    expect(varies.filter((names) => !names.includes('authorization'))).toEqual([]);
    expect(varies.filter((names) => !names.includes('accept-encoding'))).toEqual([]);
  });

  it('→ the entity tag of one caller does not validate another body of another', async () => {
    const ofOwner = await read(target.owner.token);
    const ofAdmin = await read(target.adminToken);
    const isComparable = ofOwner.status === 200 && ofAdmin.status === 200;
    const isOther = isComparable && ofOwner.text !== ofAdmin.text;
    if (!isOther) return;
    const tag = ofOwner.headers.get('etag') ?? '*';
    const reply = await read(target.adminToken, { 'If-None-Match': tag });
    expect([reply.status, reply.text.length > 0]).toEqual([200, true]);
  });
});

it('Vary names Origin, too, when CORS is on', async () => {
  const app = await startApp({ CORS_ORIGINS: 'https://app.example' });
  const headers = { Origin: 'https://app.example' };
  const reply = await app.call('GET', '/v1/users/me', { token: 'dead', headers });
  await app.close();
  expect(varyOf(reply)).toEqual(expect.arrayContaining(['origin', 'authorization']));
});
