/** What is refused while the process is short of time or memory, and what is not. */
import Fastify from 'fastify';
import { describe, expect, it } from '@jest/globals';
import { Registry } from 'prom-client';
import { BOUNDS } from '../../../../src/platform/http/bounds/bounds.js';
import { shedUnderPressure, SlowSamples } from '../../../../src/platform/http/bounds/pressure.js';
import { Refusals } from '../../../../src/platform/http/bounds/refusals.js';
import type { Problem } from '../../../../src/platform/http/problems/problem.js';
import { eventually } from '../../../support/eventually.js';

it('a process without memory refuses and counts requests, and answers probes', async () => {
  const fastify = Fastify();
  const registry = new Registry();
  const counted: string[] = [];
  fastify.setErrorHandler(({ problemType, details }: Problem, _, reply) =>
    reply
      .code(problemType.status)
      .headers(details.headers ?? {})
      .send(problemType.code),
  );
  // Any process takes more.
  const bounds = { ...BOUNDS, memoryShare: 1e-6 };
  await shedUnderPressure(fastify, bounds, new Refusals(registry), ({ url }) => counted.push(url));
  fastify.get('/probe', { config: { action: 'operator' } }, () => 'alive');
  fastify.get('/orders', () => 'served');
  const url = await fastify.listen({ host: '127.0.0.1', port: 0 });
  try {
    const refused = await eventually('a request is refused', async () => {
      const reply = await fetch(`${url}/orders`);
      return reply.status === 200 ? undefined : reply;
    });
    expect([refused?.status, await refused?.text()]).toEqual([503, 'overloaded']);
    expect(refused?.headers.get('retry-after')).toBe('1');
    expect(await (await fetch(`${url}/probe`)).text()).toBe('alive');
    expect(counted).toEqual(['/orders']);
    expect(await registry.metrics()).toContain(
      'holdfast_requests_refused_total{bound="pressure"} 1',
    );
  } finally {
    await fastify.close();
  }
});

it('a process that was slow once refuses nothing', async () => {
  const fastify = Fastify();
  const bounds = { ...BOUNDS, eventLoopDelayMs: 1e-6 };
  await shedUnderPressure(fastify, bounds, new Refusals(new Registry()), () => undefined);
  fastify.get('/orders', () => 'served');
  const url = await fastify.listen({ host: '127.0.0.1', port: 0 });
  try {
    await eventually('the process counts as slow', () => fastify.isUnderPressure());
    expect((await fetch(`${url}/orders`)).status).toBe(200);
  } finally {
    await fastify.close();
  }
});

describe('slow samples of the event loop', () => {
  const SECOND = 1_000;
  /** @param samples delay and second of each request; what each of them finds */
  const areLasting = (samples: readonly (readonly [number, number])[]): boolean[] => {
    const slowSamples = new SlowSamples();
    return samples.map(([delayMs, second]) => slowSamples.isLasting(delayMs, second * SECOND));
  };

  it('last when there are three in a row', () => {
    expect(
      areLasting([
        [700, 100],
        [710, 101],
        [720, 102],
      ]),
    ).toEqual([false, false, true]);
  });

  it('do not last when many requests see the same one', () => {
    expect(
      areLasting([
        [700, 100],
        [700, 100],
        [700, 100],
        [700, 100],
      ]),
    ).not.toContain(true);
  });

  it('do not last when they are far apart', () => {
    expect(
      areLasting([
        [700, 100],
        [710, 111],
        [720, 122],
        [730, 133],
      ]),
    ).not.toContain(true);
  });
});
